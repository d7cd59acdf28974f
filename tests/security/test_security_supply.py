"""What we install: locked by hash, listed with a release, and audited where a network allows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def packages(lock: str) -> dict[str, str]:
    """Each locked package with its entry."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", (ROOT / lock).read_text())
    return {e.split("==")[0]: e for e in entries if re.match(r"[A-Za-z0-9_.-]+==", e)}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_package_of_the_lock_has_hashes(lock: str) -> None:
    found = packages(lock)

    assert len(found) > 20
    assert [name for name, entry in found.items() if "--hash=sha256:" not in entry] == []
    assert " @ " not in (ROOT / lock).read_text()  # no package from an address


def test_the_setup_installs_nothing_without_a_hash() -> None:
    text = (ROOT / "scripts" / "setup.sh").read_text()

    installs = re.findall(r"pip install .*", text)
    assert len(installs) == 2
    assert all(
        "--require-hashes" in i or "--no-deps --no-build-isolation -e ." in i for i in installs
    )


def test_libraries_with_known_holes_of_old_are_new_enough() -> None:
    found = packages("requirements.lock")

    for name, least in (("aiohttp", (3, 14, 1)), ("asyncssh", (2, 23, 1))):
        version = re.match(r"[^=]+==([\d.]+)", found[name])
        assert version is not None
        assert tuple(map(int, version[1].split("."))) >= least


def test_the_bill_of_materials_holds_the_lock_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "dist" / "sbom.cdx.json"
    texts = []
    for _ in range(2):
        subprocess.run(
            [sys.executable, ROOT / "scripts" / "sbom.py", target], check=True, timeout=60
        )
        texts.append(target.read_text())
    bill = json.loads(texts[0])

    assert texts[0] == texts[1]
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert {one["name"] for one in bill["components"]} == set(packages("requirements.lock"))
    assert all(one["hashes"] and one["version"] for one in bill["components"])
    assert bill["metadata"]["component"]["name"] == "mkinf-autoscaler"


def test_an_audit_without_a_network_says_so_and_does_not_pass(tmp_path: Path) -> None:
    nowhere = {
        **os.environ,
        "AUDIT_VENV": str(tmp_path / "tools"),
        "PYTHON": "/bin/false",  # as good as an index that does not answer
    }
    said = subprocess.run(
        [ROOT / "scripts" / "audit.sh"], env=nowhere, capture_output=True, text=True, timeout=60
    )

    assert said.returncode == 2
    assert "NOT AUDITED" in said.stdout
    assert not (tmp_path / "tools").exists()


@pytest.mark.parametrize(
    ("answers", "status", "words"),
    [
        ("echo 'No known vulnerabilities found'", 0, "No known"),
        ("echo 'Found 1 known vulnerability in 1 package'; exit 1", 1, "Found 1"),
        (
            "echo 'No known vulnerabilities found'; echo 'idna  could not be audited: idna (3.20)'",
            2,
            "NOT AUDITED",
        ),
        ("echo 'ERROR: connection refused' >&2; exit 1", 2, "NOT AUDITED"),
    ],
)
def test_the_audit_passes_on_a_clean_answer_only(
    tmp_path: Path, answers: str, status: int, words: str
) -> None:
    tool = tmp_path / "bin" / "pip-audit"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{answers}\n")
    tool.chmod(0o755)
    said = subprocess.run(
        [ROOT / "scripts" / "audit.sh"],
        env={**os.environ, "AUDIT_VENV": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (said.returncode, words in said.stdout) == (status, True), said.stdout
