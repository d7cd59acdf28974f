"""Write what a release is made of, as CycloneDX 1.5 JSON, from the hashed lock: `make sbom`.

The lock is what is installed (`pip --require-hashes`), so the list needs no look at any environment and comes out the
same each time.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PACKAGE = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def locked(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Each package of a lock: name, version, and the SHA-256 of each file that may be installed."""
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text):
        found = _PACKAGE.match(entry)
        if found is not None:
            yield found[1], found[2], _HASH.findall(entry)


def bill(lock: str, name: str, version: str) -> dict[str, object]:
    """The bill of materials of one release."""
    components = [
        {
            "type": "library",
            "bom-ref": _purl(package, its_version),
            "name": package,
            "version": its_version,
            "purl": _purl(package, its_version),
            # of each file that may be installed: a wheel per platform, and the source
            "hashes": [{"alg": "SHA-256", "content": one} for one in hashes],
        }
        for package, its_version, hashes in locked(lock)
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, name + version + lock)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": _purl(name, version),
                "name": name,
                "version": version,
                "purl": _purl(name, version),
            }
        },
        "components": components,
        "dependencies": [
            {"ref": _purl(name, version), "dependsOn": [one["bom-ref"] for one in components]}
        ],
    }


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"


def main(arguments: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = bill((ROOT / "requirements.lock").read_text(), project["name"], project["version"])
    target = Path(arguments[0]) if arguments else ROOT / "dist" / "sbom.cdx.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{target}: {len(list(locked((ROOT / 'requirements.lock').read_text())))} packages")


if __name__ == "__main__":
    main(sys.argv[1:])
