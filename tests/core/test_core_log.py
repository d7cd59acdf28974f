"""No secret reaches a log line, whatever brought it there."""

from __future__ import annotations

import errno
import io
import json
import sys

import pytest
import structlog

from autoscaler.log import mask, set_up

SECRET = "canary-5f2d9a10"


@pytest.fixture(autouse=True)
def _restored() -> object:
    yield
    structlog.reset_defaults()


def fail_with_a_secret_at_hand() -> None:
    nonce = SECRET
    raise RuntimeError(f"it broke after {len(nonce)} characters")


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_traceback_shows_no_local_variable(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up("info", style)  # type: ignore[arg-type]  # the parameter is one of the two

    try:
        fail_with_a_secret_at_hand()
    except RuntimeError:
        structlog.get_logger("t").exception("pass_broken")

    line = capsys.readouterr().err
    assert "pass_broken" in line
    assert "it broke after" in line
    assert SECRET not in line


def test_what_looks_like_a_secret_is_masked_in_any_field(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up("info", "json")

    structlog.get_logger("t").warning("call_failed", why=f"Authorization: Bearer {SECRET}")

    line = capsys.readouterr().err
    assert SECRET not in line
    assert json.loads(line)["event"] == "call_failed"


def test_masking_leaves_ordinary_words_alone() -> None:
    assert mask("3 nodes wait for a token stage") == "3 nodes wait for a token stage"


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_cannot_be_written_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    set_up("info", "json")

    structlog.get_logger("t").warning("disk_full")
