"""`audit` and `panic` as a person types them: what is refused, and what is asked first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import structlog
import typer
from aiohttp import web
from typer.testing import CliRunner, Result

from autoscaler.cli.audit import audit
from autoscaler.cli.panic import panic
from tests.brakes.parts import FRESH, name, telling
from tests.cloud.answers import VM
from tests.cloud.scripted import KEY, PROJECT, ScriptedMkinf, serve, status

Type = Callable[..., Awaitable[Result]]


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    yield
    structlog.reset_defaults()  # a command's log goes to its own stderr, which is closed by now


@pytest.fixture
async def mkinf() -> AsyncIterator[ScriptedMkinf]:
    scripted = ScriptedMkinf()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    runner, port = await serve(app)
    scripted.url = f"http://127.0.0.1:{port}/v0.1"
    scripted.on("GET /projects", {"items": [{"id": PROJECT, "name": "serving"}]})
    scripted.on("GET P/vms", {"items": [{**VM, "name": name()}]})
    scripted.on("GET P/disks", {"items": []})
    scripted.on("GET P/vms/operations", {"items": []})
    scripted.on("GET P/vpc/firewall-rules", {"items": []})
    yield scripted
    await runner.cleanup()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def shell(mkinf: ScriptedMkinf, key_file: Path) -> Type:
    """Type a command; the server answers meanwhile."""
    app = typer.Typer()
    app.command("audit")(audit)
    app.command("panic")(panic)

    async def run(*words: str, stdin: str = "") -> Result:
        connection = ["--url", mkinf.url, "--project", PROJECT]
        if "--key-file" not in words:
            connection += ["--key-file", str(key_file)]
        return await asyncio.to_thread(CliRunner().invoke, app, [*words, *connection], input=stdin)

    return run


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--owner"),
        (("--owner", "Testtest"), "--owner: found 'Testtest'"),
        (("--owner", "test"), "--owner: found 'test'"),
        (("--owner", "testtest", "--prefix", "1as"), "--prefix: found '1as'"),
        (("--owner", "testtest", "--key-file", "/nowhere/key"), "/nowhere/key: cannot be read"),
        (("--owner", "testtest", "--daemon", "gateway:9110"), "--daemon: found 'gateway:9110'"),
    ],
)
@pytest.mark.parametrize("command", ["audit", "panic"])
async def test_what_is_given_wrongly_is_named_before_anything_is_asked(
    shell: Type, mkinf: ScriptedMkinf, command: str, words: tuple[str, ...], says: str
) -> None:
    result = await shell(command, *words)

    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert mkinf.seen == []


async def test_without_a_config_and_a_key_it_says_what_to_give(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command("audit")(audit)

    result = CliRunner().invoke(app, ["--config", str(tmp_path / "config.toml")])

    assert result.exit_code == 2
    assert "--key-file and --owner" in result.stderr


async def test_a_config_and_another_key_go_together(
    shell: Type, mkinf: ScriptedMkinf, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        'schema = 1\nstate_dir = "s"\nruntime_dir = "r"\n[cloud]\nkey_file = "/nowhere/key"\n'
        f'owner = "testtest"\nurl = "{mkinf.url}"\n'
    )

    result = await shell("audit", "--config", str(config), "--json")

    assert result.exit_code == 5, result.output
    assert '"owner": "testtest"' in result.stdout
    assert "r/daemon.sock" in result.stdout


@pytest.mark.parametrize("typed", ["", "\n", "yes\n", "y\n", "as1-testtest\n", "testtesT\n"])
async def test_panic_wants_the_owner_mark_typed_and_deletes_nothing_else(
    shell: Type, mkinf: ScriptedMkinf, typed: str
) -> None:
    result = await shell("panic", "--owner", "testtest", stdin=typed)

    assert result.exit_code != 0
    assert not [each for each in mkinf.seen if each.method != "GET"]


async def test_panic_without_a_terminal_says_how_to_agree_beforehand(shell: Type) -> None:
    result = await shell("panic", "--owner", "testtest", stdin="")

    assert result.exit_code == 2, result.output
    assert "say --yes" in result.stderr


async def test_panic_given_up_says_what_is_left_and_what_it_costs(
    shell: Type, mkinf: ScriptedMkinf
) -> None:
    mkinf.on(f"DELETE P/vms/{VM['id']}", status(409, {"message": "busy"}))
    mkinf.on(f"PATCH P/vms/{VM['id']}", status(409, {"message": "busy"}))
    mkinf.on(f"GET P/vms/{VM['id']}", {**VM, "name": name()})

    result = await shell("panic", "--owner", "testtest", "--for", "1s", stdin="testtest\n")

    assert result.exit_code == 1, result.output
    assert f"left: vm {name()}" in result.stdout
    assert "given up after 1s" in result.stdout
    assert "no daemon was paused" in result.stdout


async def test_a_time_to_give_up_without_a_unit_is_refused(shell: Type) -> None:
    result = await shell("panic", "--owner", "testtest", "--for", "30")

    assert result.exit_code == 2
    assert "--for: found '30'" in result.stderr


async def test_a_refused_key_is_told_by_its_exit_status(shell: Type, mkinf: ScriptedMkinf) -> None:
    for call in ("GET /projects", "GET P/availabilities", "GET P/vms"):
        mkinf.on(call, {"message": "no"}, status=401)

    assert (await shell("audit", "--owner", "testtest")).exit_code == 3
    assert (await shell("panic", "--owner", "testtest", "--yes")).exit_code == 3


async def test_a_listing_that_is_not_whole_is_no_clean_audit(
    shell: Type, mkinf: ScriptedMkinf
) -> None:
    mkinf.on("GET P/vms", {"items": [{**VM, "name": name()}, {"id": 7}]})

    result = await shell("audit", "--owner", "testtest")

    assert result.exit_code == 1, result.output
    assert "not whole" in result.stderr


@pytest.mark.parametrize(
    ("words", "stdin", "status_of_it", "deletes"),
    [
        (("--yes",), "", 0, 1),
        ((), "y\n", 0, 1),
        ((), "n\n", 1, 0),
        ((), "", 2, 0),
    ],
    ids=["agreed beforehand", "agreed", "not agreed", "nobody to ask"],
)
async def test_what_a_daemon_disowns_twice_is_deleted_once_a_person_agrees(
    shell: Type,
    mkinf: ScriptedMkinf,
    tmp_path: Path,
    words: tuple[str, ...],
    stdin: str,
    status_of_it: int,
    deletes: int,
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        'schema = 1\nstate_dir = "s"\nruntime_dir = "r"\n[cloud]\nkey_file = "/nowhere/key"\n'
        f'owner = "testtest"\nurl = "{mkinf.url}"\nrequests_per_s = 200\n'
        '[timings]\ngone_after = "300ms"\nstep = "100ms"\n'
    )
    listed = [{**VM, "name": name()}]

    async def vms(_: web.Request) -> web.StreamResponse:
        return web.json_response({"items": listed})

    async def delete(_: web.Request) -> web.StreamResponse:
        listed.clear()
        return web.json_response({}, status=202)

    mkinf.on("GET P/vms", vms)
    mkinf.on(f"DELETE P/vms/{VM['id']}", delete)
    mkinf.on(f"GET P/vms/{VM['id']}", status(404))
    async with telling() as daemon:
        daemon.body = {**FRESH, "project": PROJECT}

        result = await shell(
            "audit", "--config", str(config), "--daemon", daemon.url,
            "--terminate-unaccounted", *words, stdin=stdin,
        )  # fmt: skip

    assert result.exit_code == status_of_it, result.output
    assert len(mkinf.calls(f"DELETE P/vms/{VM['id']}")) == deletes
    assert f"to be deleted: vm {name()}" in result.stdout


async def test_without_a_daemon_that_is_believed_nothing_is_deleted(
    shell: Type, mkinf: ScriptedMkinf
) -> None:
    result = await shell("audit", "--owner", "testtest", "--terminate-unaccounted", "--yes")

    assert result.exit_code == 5, result.output
    assert "nothing is deleted: unknown" in result.stdout
    assert not [each for each in mkinf.seen if each.method != "GET"]
