"""Our SSH key and tokens: made once, and refused when others may read them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.errors import ConfigError
from autoscaler.nodes.keys import client_key, public_line, read_token
from autoscaler.nodes.remote_text import last_bytes, printable, redacted

TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_the_key_is_made_once_and_for_us_alone(tmp_path: Path) -> None:
    path = tmp_path / "ssh_key"

    first, second = client_key(path, "ed25519"), client_key(path, "ed25519")

    assert public_line(first) == public_line(second)
    assert public_line(first).startswith("ssh-ed25519 AAAA")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["ssh_key"]


def test_a_cloud_that_refuses_ed25519_gets_rsa(tmp_path: Path) -> None:
    key = client_key(tmp_path / "ssh_key", "rsa-4096")

    assert public_line(key).startswith("ssh-rsa AAAA")
    assert len(key.public_data) > 500


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_that_others_may_read_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "ssh_key"
    client_key(path, "ed25519")
    path.chmod(mode)

    with pytest.raises(ConfigError, match=f"mode is {mode:04o}.*chmod 0600"):
        client_key(path, "ed25519")


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ssh_key"
    path.write_text("hello")
    path.chmod(0o600)

    with pytest.raises(ConfigError, match=r"ssh\.key_file .*no private key"):
        client_key(path, "ed25519")


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ssh_key"
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.write_bytes(key.export_private_key("pkcs8-pem", passphrase="x"))
    path.chmod(0o600)

    with pytest.raises(ConfigError, match="without a passphrase"):
        client_key(path, "ed25519")


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be made: No such file"):
        client_key(tmp_path / "nowhere" / "ssh_key", "ed25519")


@pytest.mark.parametrize("content", ["", "two words", "a\nb"])
def test_a_token_file_without_one_token_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(ConfigError, match="holds no token"):
        read_token(path)


def test_a_token_is_read_without_its_line_end_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("hf_canary\n")
    path.chmod(0o600)

    token = read_token(path)

    assert token.reveal() == "hf_canary"
    assert "canary" not in repr(token)


def test_secrets_and_what_looks_like_one_are_masked() -> None:
    text = "nonce abc123 token hf_abcdefghij Authorization: Bearer xyz.123 end"

    masked = redacted(text, ["abc123", ""])

    assert masked == "nonce **** token **** Authorization: Bearer **** end"


@given(text=st.text())
def test_no_text_of_a_node_can_move_a_cursor(text: str) -> None:
    shown = printable(text)

    assert all(
        c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cs", "Zl", "Zp"} for c in shown
    )
    assert not any(unicodedata.bidirectional(c) in TURNING for c in shown)


@given(text=st.text(), limit=st.integers(1, 50))
def test_the_end_of_a_text_is_never_longer_than_asked(text: str, limit: int) -> None:
    assert len(last_bytes(text, limit).encode("utf-8", "replace")) <= limit
