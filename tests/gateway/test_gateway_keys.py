"""Files of client keys: what is taken, what is refused and how it is said, and what a change does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import openai
import pytest

from autoscaler.errors import ConfigError
from autoscaler.gateway.guarded import read_guarded
from autoscaler.gateway.keys import hash_of, key_files, new_key, read_keys
from tests.gateway.front_parts import eventually, key_entry, put, write_keys

MODEL = "org/chat-8b"


def test_a_key_is_found_by_itself_and_by_nothing_else(tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "a.toml", ann={}, bob={"models": ["org/*"]})

    ring = read_keys(tmp_path)

    found = ring.find(keys["bob"].encode())
    assert found is not None
    assert found.name == "bob"
    assert found.may_use("org/x")
    assert not found.may_use("other/x")
    assert ring.find(b"") is None
    assert ring.find(hash_of(keys["ann"]).encode()) is None
    assert keys["ann"] not in (tmp_path / "a.toml").read_text()


def test_new_keys_have_256_random_bits() -> None:
    assert len({new_key() for _ in range(100)}) == 100
    assert len(new_key()) >= len("sk-as-") + 43


def test_a_directory_is_read_whole_and_its_hidden_files_are_not(tmp_path: Path) -> None:
    write_keys(tmp_path / "a.toml", ann={})
    write_keys(tmp_path / "b.toml", bob={})
    put(tmp_path / ".half.toml", b"[keys")

    assert [file.name for file in key_files(tmp_path)] == ["a.toml", "b.toml"]
    assert {key.name for key in read_keys(tmp_path).by_digest.values()} == {"ann", "bob"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no client key"),
        ("[keys", "not TOML"),
        ("[keys.ann]\nmodels = ['x']\n", "keys.ann.sha256: is missing"),
        ("[keys.ann]\nsha256 = 'sk-as-oops'\n", "the hash of a key and not the key"),
        ("[keys.ann]\nsha256 = 5\n", "64 hex digits"),
        (key_entry("ann", "k", model="x"), "did you mean 'models'"),
        (key_entry("ann", "k", requests_per_minute=0), "greater than or equal to 1"),
        (key_entry('"a b"', "k"), "keys.a b: found 'a b'"),
        (key_entry("ann", "k") + key_entry("bob", "k"), "the same key as ann's"),
        ("[key.ann]\n", "did you mean 'keys'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_without_a_secret(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "keys.toml"
    put(path, text.encode())

    with pytest.raises(ConfigError) as refused:
        read_keys(path)

    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert "sk-as-oops" not in str(refused.value)


def test_a_name_in_two_files_is_refused(tmp_path: Path) -> None:
    write_keys(tmp_path / "a.toml", ann={})
    write_keys(tmp_path / "b.toml", ann={})

    with pytest.raises(ConfigError, match=r"b\.toml: keys\.ann: .*a\.toml has this name too"):
        read_keys(tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_open_to_others_is_refused_with_the_command_to_run(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "keys.toml"
    write_keys(path, ann={})
    path.chmod(mode)

    with pytest.raises(ConfigError, match=f"mode {mode:04o} .*: chmod 600 {path}"):
        read_keys(path)


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys.toml", ann={})
    tmp_path.chmod(0o775)

    with pytest.raises(ConfigError, match=f"chmod go-w {tmp_path}"):
        read_keys(tmp_path)


def test_a_file_of_somebody_else_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    write_keys(path, ann={})
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    reader = 54321

    with pytest.raises(ConfigError, match=f"chown {reader} {path}"):
        read_guarded(path, "the file", uid=reader)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    with pytest.raises(ConfigError, match="regular file"):
        read_keys(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="No such file"):
        read_keys(tmp_path / "missing")


def test_a_credential_of_systemd_is_taken_as_it_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.toml"
    write_keys(path, ann={})
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert read_keys(path).by_digest


async def test_a_changed_file_is_in_force_without_a_restart_and_a_bad_one_is_not(
    start: Any, engine: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.toml"
    old = write_keys(path, ann={})["ann"]

    async with start(client_keys=path) as gateway:
        await gateway.pool()
        await gateway.add("a", engine.url)
        door = gateway.gateway.door

        async def may(key: str) -> bool:
            base = f"{gateway.url}/v1"
            async with openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0) as client:
                try:
                    await client.chat.completions.create(model=MODEL, messages=[])
                except openai.AuthenticationError:
                    return False
                return True

        assert await may(old)
        put(path, b"[keys.ann]\nsha256 = 'nonsense'\n")
        await eventually(lambda: door.refused == {"client_keys"})
        assert await may(old)

        path.unlink()
        await door.reload()
        assert await may(old)

        new = write_keys(path, bob={})["bob"]
        await eventually(lambda: not door.refused)
        assert await may(new)
        assert not await may(old)

        path.chmod(0o644)
        await eventually(lambda: door.refused == {"client_keys"})
        path.chmod(0o600)
        await eventually(lambda: not door.refused)

    log = capsys.readouterr().out
    assert log.count("front_reload_refused") == 3
    assert not any(key in log for key in (old, new))
