"""`autoscaler keys new`: shown once, kept as a hash, and in force for a gateway at work."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autoscaler.cli.keys import keys_app
from autoscaler.gateway.keys import hash_of, read_keys
from tests.gateway.front_parts import write_keys


def new(*arguments: str) -> Result:
    return CliRunner().invoke(keys_app, ["new", *arguments])


def test_a_new_key_is_printed_once_with_the_entry_that_keeps_its_hash() -> None:
    result = new("team-a", "--models", "Qwen/*", "--models", 'a"b\\', "--rpm", "600", "--tpm", "9")

    key, _, text = result.stdout.partition("\n")
    entry = tomllib.loads(text)["keys"]["team-a"]
    assert result.exit_code == 0
    assert key not in result.stderr
    assert entry == {
        "sha256": hash_of(key),
        "models": ["Qwen/*", 'a"b\\'],
        "requests_per_minute": 600,
        "tokens_per_minute": 9,
    }


def test_it_goes_into_a_file_of_its_own_in_a_directory(tmp_path: Path) -> None:
    result = new("team.a", "--into", str(tmp_path), "--concurrent", "3")
    key = result.stdout.strip()

    (file,) = tmp_path.iterdir()
    found = read_keys(tmp_path).find(key.encode())
    assert found is not None
    assert (found.name, found.concurrent, file.name) == ("team.a", 3, "team.a.toml")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_is_added_to_a_file_whose_keys_and_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    old = write_keys(path, ann={})["ann"]
    path.write_text("# ours\n" + path.read_text())

    key = new("bob", "--into", str(path)).stdout.strip()

    ring = read_keys(path)
    assert path.read_text().startswith("# ours\n")
    assert {k.name for k in ring.by_digest.values()} == {"ann", "bob"}
    assert ring.find(old.encode()) is not None
    assert ring.find(key.encode()) is not None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ann", "has a key named ann"),
        ("a b", "a key's name is up to 64"),
        ("../x", "a key's name is up to 64"),
    ],
)
def test_a_name_that_is_taken_or_is_none_is_refused_and_nothing_changes(
    tmp_path: Path, name: str, said: str
) -> None:
    path = tmp_path / "keys.toml"
    write_keys(path, ann={})
    before = path.read_bytes()

    result = new(name, "--into", str(path))

    assert result.exit_code == 2
    assert said in result.stderr
    assert "sk-as-" not in result.output
    assert path.read_bytes() == before


def test_a_file_that_a_gateway_would_refuse_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write_keys(path, ann={})
    path.chmod(0o644)

    result = new("bob", "--into", str(path))

    assert result.exit_code == 2
    assert f"chmod 600 {path}" in result.stderr
