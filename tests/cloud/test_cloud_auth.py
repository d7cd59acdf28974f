"""The credential: read from a guarded file, renewed by one for all, replaced while running."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.credentials import AccessKey, Password, SecretFile
from autoscaler.cloud.mkinf.values import VmRequest
from autoscaler.cloud.secret import Secret
from autoscaler.errors import AuthFailed, CloudUnavailable, ConfigError
from tests.cloud.scripted import Connect, FastClock, ScriptedMkinf, cut, status

PASSWORD = Password("ops@example.com", Secret("canary-password"))
REFUSED = status(401, {"status": 401, "message": "Unauthorized"})


def token(number: int, life_s: int = 3600) -> dict[str, object]:
    return {
        "access_token": f"canary-access-{number}",
        "refresh_token": f"canary-refresh-{number}",
        "expires_in": life_s,
        "token_type": "bearer",
    }


def bearers(mkinf: ScriptedMkinf) -> list[str]:
    return [
        each.headers["Authorization"].removeprefix("Bearer ")
        for each in mkinf.seen
        if "Authorization" in each.headers
    ]


def grants(mkinf: ScriptedMkinf) -> list[object]:
    return [each.body["grant_type"] for each in mkinf.calls("POST /auth/token")]  # type: ignore[index]  # an object


@pytest.fixture
def signed_in(mkinf: ScriptedMkinf, connect: Connect) -> MkinfClient:
    mkinf.on("GET P/vms", {"items": []})
    return connect(PASSWORD)


async def test_a_password_is_exchanged_once_and_the_token_is_used(
    mkinf: ScriptedMkinf, signed_in: MkinfClient
) -> None:
    mkinf.on("POST /auth/token", token(1))

    await signed_in.vms()
    await signed_in.vms()

    (sent,) = mkinf.calls("POST /auth/token")
    assert sent.body == {
        "grant_type": "password",
        "email": "ops@example.com",
        "password": "canary-password",
    }
    assert bearers(mkinf) == ["canary-access-1", "canary-access-1"]


async def test_all_concurrent_callers_wait_for_one_renewal(
    mkinf: ScriptedMkinf, signed_in: MkinfClient, clock: FastClock
) -> None:
    mkinf.on("POST /auth/token", token(1), token(2))

    await asyncio.gather(*(signed_in.vms() for _ in range(8)))
    clock.ahead_s += 0.8 * 3600
    await asyncio.gather(*(signed_in.vms() for _ in range(8)))

    assert grants(mkinf) == ["password", "refresh_token"]
    assert bearers(mkinf)[8:] == ["canary-access-2"] * 8


async def test_a_token_is_kept_until_80_percent_of_its_life(
    mkinf: ScriptedMkinf, signed_in: MkinfClient, clock: FastClock
) -> None:
    mkinf.on("POST /auth/token", token(1))

    await signed_in.vms()
    clock.ahead_s += 0.79 * 3600
    await signed_in.vms()

    assert grants(mkinf) == ["password"]


async def test_each_renewal_uses_the_newest_refresh_token(
    mkinf: ScriptedMkinf, signed_in: MkinfClient, clock: FastClock
) -> None:
    mkinf.on("POST /auth/token", token(1), token(2), token(3))

    for _ in range(3):
        await signed_in.vms()
        clock.ahead_s += 3000

    sent = [each.body for each in mkinf.calls("POST /auth/token")[1:]]
    assert sent == [
        {"grant_type": "refresh_token", "refresh_token": "canary-refresh-1"},
        {"grant_type": "refresh_token", "refresh_token": "canary-refresh-2"},
    ]


@pytest.mark.parametrize("refusal", [REFUSED, status(400), status(403), cut])
async def test_a_refresh_token_that_does_not_work_leads_to_signing_in_again(
    refusal: object, mkinf: ScriptedMkinf, signed_in: MkinfClient, clock: FastClock
) -> None:
    mkinf.on("POST /auth/token", token(1), refusal, token(2))

    await signed_in.vms()
    clock.ahead_s += 3000
    await signed_in.vms()

    assert grants(mkinf) == ["password", "refresh_token", "password"]
    assert bearers(mkinf)[-1] == "canary-access-2"


async def test_a_token_refused_before_its_time_is_renewed_and_the_call_repeated(
    mkinf: ScriptedMkinf, signed_in: MkinfClient
) -> None:
    mkinf.on("POST /auth/token", token(1), token(2))
    mkinf.on("GET P/vms", REFUSED, {"items": []})

    await signed_in.vms()

    assert bearers(mkinf) == ["canary-access-1", "canary-access-2"]


async def test_a_create_refused_for_its_token_is_not_sent_twice_though_the_token_is_renewed(
    mkinf: ScriptedMkinf, signed_in: MkinfClient
) -> None:
    mkinf.on("POST /auth/token", token(1), token(2))
    mkinf.on("POST P/vms", REFUSED)

    with pytest.raises(CloudUnavailable) as caught:
        await signed_in.create_vm(VmRequest("box-1", "t", "l", "i", "k"))
    await signed_in.vms()

    assert not isinstance(caught.value, AuthFailed)
    assert len(mkinf.calls("POST P/vms")) == 1
    assert bearers(mkinf)[-1] == "canary-access-2"


async def test_a_renewal_that_fails_leaves_a_token_that_is_still_good(
    mkinf: ScriptedMkinf, signed_in: MkinfClient, clock: FastClock
) -> None:
    mkinf.on("POST /auth/token", token(1), status(429), token(2))

    await signed_in.vms()
    clock.ahead_s += 3000
    await signed_in.vms()
    await signed_in.vms()

    assert bearers(mkinf) == ["canary-access-1", "canary-access-1", "canary-access-2"]


async def test_a_caller_that_gives_up_does_not_lose_the_new_pair(
    mkinf: ScriptedMkinf, signed_in: MkinfClient, clock: FastClock
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        asked.set()
        await answer.wait()
        return web.json_response(token(2))

    mkinf.on("POST /auth/token", token(1), slow)
    await signed_in.vms()
    clock.ahead_s += 3000

    impatient = asyncio.create_task(signed_in.vms())
    await asked.wait()
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    answer.set()
    await signed_in.vms()

    assert grants(mkinf) == ["password", "refresh_token"]
    assert bearers(mkinf)[-1] == "canary-access-2"


async def test_a_wrong_password_is_not_tried_again_at_once(
    mkinf: ScriptedMkinf, signed_in: MkinfClient, clock: FastClock
) -> None:
    mkinf.on("POST /auth/token", status(400, {"message": "invalid login"}), token(1))

    for _ in range(3):
        with pytest.raises(AuthFailed):
            await signed_in.vms()
    assert len(mkinf.seen) == 1
    clock.ahead_s += 1.1
    await signed_in.vms()

    assert bearers(mkinf) == ["canary-access-1"]


async def test_signing_in_while_the_cloud_is_down_is_no_refusal(
    mkinf: ScriptedMkinf, connect: Connect
) -> None:
    mkinf.on("POST /auth/token", status(503))

    with pytest.raises(CloudUnavailable) as caught:
        await connect(PASSWORD, tries=1).vms()

    assert not isinstance(caught.value, AuthFailed)


async def test_no_secret_is_in_a_log_or_a_failure(
    mkinf: ScriptedMkinf, signed_in: MkinfClient, clock: FastClock
) -> None:
    echo = {"message": "no canary-access-1 canary-refresh-1 canary-password"}
    mkinf.on(
        "POST /auth/token",
        token(1),
        status(400, echo),
        b'{"access_token": "canary-cut", "ref',
        status(400, echo),
    )
    said: list[str] = []

    with structlog.testing.capture_logs() as logs:
        await signed_in.vms()
        clock.ahead_s += 3601
        for _ in range(2):
            try:
                await signed_in.vms()
            except CloudUnavailable as exc:
                said += [str(exc), repr(exc.__cause__), repr(exc.__context__)]

    assert len(grants(mkinf)) >= 4
    assert said
    assert "canary" not in repr(logs) + repr(said)


# the file


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("first-key\n")
    path.chmod(0o600)
    return path


async def test_a_key_replaced_in_its_file_is_used_at_once(
    mkinf: ScriptedMkinf, connect: Connect, key_file: Path
) -> None:
    mkinf.on("GET P/vms", {"items": []}, REFUSED, REFUSED, {"items": []})
    client = connect(AccessKey(SecretFile(key_file)))

    await client.vms()
    with pytest.raises(AuthFailed):
        await client.vms()
    os.write(fd := os.open(key_file, os.O_WRONLY | os.O_TRUNC), b"second-key\n")
    os.close(fd)
    with pytest.raises(AuthFailed):
        await client.vms()
    os.write(fd := os.open(key_file, os.O_WRONLY | os.O_TRUNC), b"third-key\n")
    os.close(fd)
    await client.vms()

    assert bearers(mkinf) == ["first-key", "first-key", "second-key", "third-key"]


async def test_a_key_file_that_vanishes_stops_nothing_until_the_key_is_refused(
    mkinf: ScriptedMkinf, connect: Connect, key_file: Path
) -> None:
    mkinf.on("GET P/vms", {"items": []}, {"items": []}, REFUSED)
    client = connect(AccessKey(SecretFile(key_file)))

    await client.vms()
    os.unlink(key_file)
    await client.vms()
    with pytest.raises(AuthFailed, match="cannot be read"):
        await client.vms()


async def test_an_organizations_refusal_leaves_the_projects_key_in_use(
    mkinf: ScriptedMkinf, connect: Connect
) -> None:
    mkinf.on("GET /organizations", REFUSED)
    mkinf.on("GET P/vms", {"items": []})
    client = connect()

    with pytest.raises(AuthFailed):
        await client.organizations()

    assert (await client.vms()).complete


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o700])
def test_a_file_that_others_may_read_is_refused(mode: int, key_file: Path) -> None:
    key_file.chmod(mode)

    with pytest.raises(ConfigError, match="chmod 600"):
        SecretFile(key_file).read()


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_ours_alone_is_read(mode: int, key_file: Path) -> None:
    key_file.chmod(mode)

    assert SecretFile(key_file).read() == Secret("first-key")


def test_a_credential_of_systemd_is_read_as_it_stands(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file.chmod(0o440)  # as systemd makes them, with an ACL for the unit's user
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(key_file.parent))

    assert SecretFile(key_file).read() == Secret("first-key")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"one\ntwo\n", "one line"),
        (b"\xff\x00\xfe", "one line"),
        (b"k" * 20_000, "one line"),
    ],
)
def test_a_file_that_is_not_one_line_is_refused(
    content: bytes, reason: str, key_file: Path
) -> None:
    key_file.write_bytes(content)

    with pytest.raises(ConfigError, match=reason):
        SecretFile(key_file).read()


def test_a_directory_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="regular file"):
        SecretFile(tmp_path).read()


@pytest.mark.parametrize("key", ["two words", "schlüssel"])
def test_a_key_that_is_no_header_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="one word of ASCII"):
        AccessKey(Secret(key)).read()


def test_a_secret_does_not_print_itself() -> None:
    secret = Secret("canary")
    shown = f"{secret} {secret!r} {[secret]} {AccessKey(secret)} {secret:>20}"

    assert "canary" not in shown
    assert secret.reveal() == "canary"
