"""`autoscaler init`: from a key to files that work, or to none."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from autoscaler.cloud.mkinf.values import Project
from autoscaler.config_file import read_config, read_policies
from autoscaler.emulator import settings as emulated
from autoscaler.errors import ConfigError
from autoscaler.nodes.keys import client_key
from autoscaler.policy import Mode
from autoscaler.setup.init import Answers, planned
from autoscaler.setup.placing import NewFile, staged
from tests.emulator.rig import ACCESS_KEY
from tests.setup.conftest import PROJECTS, Desk

ROOT = Path(__file__).parents[2]
FILES = [
    ".schema/config.json",
    ".schema/policy.json",
    "config.toml",
    "host_authority",
    "policies/qwen3-8b.toml",
    "state/ssh_key",
]


@pytest.fixture
async def several(desk: Desk) -> AsyncIterator[Desk]:
    """A cloud whose key opens two projects; the emulator's opens one."""

    async def answer(request: web.Request) -> web.StreamResponse:
        known = [{"id": each.id, "name": each.name} for each in PROJECTS]
        return web.json_response(known if request.path.endswith("/projects") else {"items": []})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield replace(desk, url=f"http://127.0.0.1:{runner.addresses[0][1]}/v0.1")
    await runner.cleanup()


def free_ports(config: Path) -> None:
    """Let no port matter that something else on this host has."""
    free = '[serve]\nlisten = "127.0.0.1:0"\n[front]\nlisten = "127.0.0.1:0"\n'
    config.write_text(config.read_text() + free)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_by_options_alone_it_writes_a_deployment_that_rents_nothing_yet(desk: Desk) -> None:
    said = await desk.init("--yes", "--usd-per-hour", "12.50", "--source", "203.0.113.5/32")

    assert said.exit_code == 0, said.output
    assert desk.left() == FILES
    new = desk.path / "new"
    config = read_config(new / "config.toml")
    (policy,) = read_policies(config.policies, emulated=False).policies.values()
    assert str(config.limits.usd_per_hour) == "$12.50"
    assert (str(config.limits.usd_per_month), config.limits.nodes) == ("$600.00", 4)
    assert config.cloud.project == PROJECTS[0].id
    assert config.firewall.sources == ("203.0.113.5/32",)
    assert policy.mode is Mode.SHADOW
    assert config.ssh.port == 2222  # of the emulator's machines
    assert client_key(config.ssh_key_file, "ed25519").get_algorithm() == "ssh-ed25519"
    assert mode(new / "state/ssh_key") == mode(config.host_authority_file) == 0o600
    assert config.host_authority_file == new / "host_authority"  # outlives the state
    assert mode(new / "state") == mode(new / "run") == 0o700
    assert "autoscaler doctor --config" in said.output
    assert "autoscaler run --config" in said.output
    assert f"autoscaler trial {new}/policies/qwen3-8b.toml --max-cost 2 --config" in said.output
    assert "autoscaler promote Qwen/Qwen3-8B" in said.output


async def test_what_it_writes_is_all_well_to_the_doctor(desk: Desk) -> None:
    await desk.init("--yes", "--source", "203.0.113.5/32")
    free_ports(desk.path / "new/config.toml")

    said = await desk.type("doctor", "--config", str(desk.path / "new/config.toml"))

    assert said.exit_code == 0, said.output
    assert "0 fail" in said.output


async def test_two_deployments_never_share_an_owner_mark(desk: Desk) -> None:
    await desk.init("--yes")
    (desk.path / "new").rename(desk.path / "first")
    await desk.init("--yes")

    owners = {
        read_config(desk.path / each / "config.toml").cloud.owner for each in ("first", "new")
    }
    assert len(owners) == 2


async def test_it_asks_for_what_no_option_says(desk: Desk) -> None:
    answers = f"{ACCESS_KEY}\n7\n\n2\nacme/chat-8b\n203.0.113.5/32, 203.0.113.6/32\n"

    said = await desk.init(answers=answers, key=False)

    assert said.exit_code == 0, said.output
    config = read_config(desk.path / "new/config.toml")
    assert str(config.limits.usd_per_hour) == "$7.00"
    assert config.limits.nodes == 2
    assert config.firewall.sources == ("203.0.113.5/32", "203.0.113.6/32")
    assert "policies/chat-8b.toml" in desk.left()
    assert "validate --online" in said.output  # nobody knows this model's shape
    assert config.cloud.key_file is not None
    assert mode(config.cloud.key_file) == 0o600
    assert config.cloud.key_file.read_text() == f"{ACCESS_KEY}\n"
    assert ACCESS_KEY not in said.output


async def test_a_key_from_a_pipe_is_taken_without_a_warning_of_its_echo(desk: Desk) -> None:
    command = [sys.executable, "-m", "autoscaler", "init", "new", "--url", desk.url]
    limits = ["--usd-per-hour", "7", "--usd-per-month", "600", "--nodes", "2"]
    serve = ["--model", "acme/chat-8b", "--source", "203.0.113.5/32"]

    said = await asyncio.to_thread(
        subprocess.run,
        [*command, *limits, *serve],
        cwd=desk.path,
        input=f"{ACCESS_KEY}\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (said.returncode, said.stderr) == (0, "")
    assert (desk.path / "new/mkinf.key").read_text() == f"{ACCESS_KEY}\n"
    assert ACCESS_KEY not in said.stdout


async def test_an_answer_that_no_config_can_hold_is_asked_for_again(desk: Desk) -> None:
    answers = "abc\n7\n-1\n600\nmany\n0\n2\nrm -rf /\n\nlocalhost\n0.0.0.0/0\n203.0.113.5/32\n"

    said = await desk.init(answers=answers)

    assert said.exit_code == 0, said.output
    config = read_config(desk.path / "new/config.toml")
    assert (str(config.limits.usd_per_hour), config.limits.nodes) == ("$7.00", 2)
    assert config.firewall.sources == ("203.0.113.5/32",)
    assert said.output.count("Error: ") == 7
    assert "found 'abc': write an amount in USD" in said.output
    assert "found 'many': write a whole number from 1 on" in said.output


async def test_of_several_projects_one_is_asked_for_or_named(several: Desk) -> None:
    unsaid = await several.init("--yes")
    wrong = await several.init("--yes", "--project", "prod")
    assert (unsaid.exit_code, wrong.exit_code) == (2, 2)
    assert "name one with --project: serving (4b1e7f80" in unsaid.output
    assert "no project is 'prod'; there are: serving" in wrong.output
    assert several.left() == []

    picked = await several.init("--source", "203.0.113.5/32", answers="3\n2\n\n\n\n\n")

    assert picked.exit_code == 0, picked.output
    assert "  2  dev" in picked.output
    assert read_config(several.path / "new/config.toml").cloud.project == PROJECTS[1].id


async def test_a_wrong_key_leaves_nothing(desk: Desk) -> None:
    desk.key_file.write_text("another-key\n")

    said = await desk.init("--yes")

    assert said.exit_code == 2
    assert "the cloud refuses this key" in said.output
    assert not (desk.path / "new").exists()


async def test_a_key_that_others_may_read_is_refused(desk: Desk) -> None:
    desk.key_file.chmod(0o644)

    said = await desk.init("--yes")

    assert said.exit_code == 2
    assert "chmod 0600" in said.output or "chmod 600" in said.output


@pytest.mark.parametrize("there", ["config.toml", "policies/qwen3-8b.toml", "state/ssh_key"])
async def test_nothing_that_is_there_is_replaced(desk: Desk, there: str) -> None:
    path = desk.path / "new" / there
    path.parent.mkdir(parents=True)
    path.write_text("precious")

    said = await desk.init("--yes")

    assert said.exit_code == 2
    assert f"there already: {path}" in said.output.replace("\n", "")
    assert path.read_text() == "precious"
    assert desk.left() == [there]


@pytest.mark.parametrize(
    ("option", "value", "said_of_it"),
    [
        ("--usd-per-hour", "a lot", "--usd-per-hour: found 'a lot': write an amount in USD"),
        ("--source", "0.0.0.0/0", "opens the serving ports to the world"),
        ("--source", "localhost", "--source: found ['localhost']: "),
        ("--model", 'x"\nevil = 1', "--model: found"),
        ("--usd-per-month", "-1", "--usd-per-month: found '-1'"),
    ],
)
async def test_answers_that_make_no_config_write_nothing(
    desk: Desk, option: str, value: str, said_of_it: str
) -> None:
    said = await desk.init("--yes", option, value)

    assert said.exit_code == 2
    assert said_of_it in said.output
    assert ".autoscaler-init-" not in said.output
    assert not (desk.path / "new").exists()


@pytest.mark.parametrize(
    "desk", [(emulated.Project(name='a"b\n[limits]\nnodes = 999 #'),)], indirect=True
)
async def test_a_projects_name_is_nothing_but_a_comment(desk: Desk) -> None:
    said = await desk.init("--yes")

    assert said.exit_code == 0, said.output
    assert read_config(desk.path / "new/config.toml").limits.nodes == 4


def test_for_a_service_paths_are_those_of_its_units(desk: Desk) -> None:
    answers = Answers(Path("/etc/autoscaler"), desk.key_file)

    files = planned(answers, Project(id=PROJECTS[0].id))

    config = tomllib.loads(files[Path("config.toml")].content.decode())
    shown = tomllib.loads((ROOT / "config.example.toml").read_text())
    assert config["state_dir"] == "/var/lib/autoscaler"
    assert config["cloud"]["key_file"] == shown["cloud"]["key_file"]
    assert config["gateway"] == shown["gateway"]
    assert "port" not in config["ssh"]
    assert files[Path("mkinf.key")] == NewFile(f"{ACCESS_KEY}\n".encode(), 0o600)
    assert files[Path("/var/lib/autoscaler/ssh_key")].mode == 0o600


def test_a_file_that_cannot_be_written_takes_the_others_back(tmp_path: Path) -> None:
    files = {Path("policies/a.toml"): NewFile(b"a"), Path("state/key"): NewFile(b"b", 0o600)}

    with pytest.raises(ConfigError, match="state"):
        _meanwhile(tmp_path / "new", files)

    assert [p.name for p in tmp_path.rglob("*")] == ["new", "state"]


def _meanwhile(directory: Path, files: dict[Path, NewFile]) -> None:
    with staged(directory, files) as stage:
        assert (stage / "policies/a.toml").read_bytes() == b"a"
        (directory / "state").write_text("somebody was faster")


async def test_without_a_terminal_it_says_which_options_answer(desk: Desk) -> None:
    for result in (await desk.init(), await desk.init(key=False)):
        assert result.exit_code == 2, result.output
        assert "nobody to ask" in result.stderr
        assert "--yes, and --key-file" in result.stderr
    assert desk.left() == []


async def test_an_address_without_the_apis_version_is_refused(desk: Desk) -> None:
    result = await replace(desk, url=desk.url.removesuffix("/v0.1")).init("--yes")

    assert result.exit_code == 2, result.output
    assert "--url: found" in result.stderr
    assert "as in http://127.0.0.1" in result.stderr
    assert desk.left() == []


async def test_a_directory_in_the_place_of_the_ssh_key_fails_the_doctor(desk: Desk) -> None:
    await desk.init("--yes")
    key = desk.path / "new/state/ssh_key"
    key.unlink()
    key.mkdir()

    result = await desk.type("doctor", "--config", str(desk.path / "new/config.toml"))

    assert result.exit_code == 1, result.output
    assert f"fail  ssh key: {key}: not a regular file" in result.stdout


async def test_a_missing_config_says_how_to_name_or_make_one(desk: Desk) -> None:
    for command in ("status", "run", "validate"):
        result = await desk.type(command, "--config", str(desk.path / "none.toml"))

        assert result.exit_code == 2, result.output
        assert "--config" in result.stderr
        assert "autoscaler init" in result.stderr
