"""`autoscaler cloud …` and `autoscaler offers` against the scripted server, as a person types them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import structlog
import typer
from typer.testing import CliRunner, Result

from autoscaler.cli.cloud import cloud_app
from autoscaler.cli.offers import offers
from tests.cloud.answers import CREATED, VM
from tests.cloud.scripted import KEY, PROJECT, ScriptedMkinf, status

Type = Callable[..., Awaitable[Result]]


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    yield
    structlog.reset_defaults()  # a command's log goes to its own stderr, which is closed by now


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
    app.add_typer(cloud_app)
    app.command("offers")(offers)

    async def run(*words: str, stdin: str = "") -> Result:
        connection = ["--url", mkinf.url, "--project", PROJECT, "--key-file", str(key_file)]
        invoke = CliRunner(env={"COLUMNS": "200"}).invoke
        return await asyncio.to_thread(invoke, app, [*words, *connection], input=stdin)

    return run


def catalogue(mkinf: ScriptedMkinf) -> None:
    mkinf.on(
        "GET P/availabilities",
        {
            "items": [
                {"type": "l40s-48gb.1x", "location": "us-east1-a", "available": True},
                {"type": "a40.1x", "location": "us-east1-a", "available": False},
            ]
        },
    )
    mkinf.on(
        "GET P/specs",
        {"items": [{"product_name": "l40s-48gb.1x", "num_gpu": 1, "gpu_type": "L40S-48GB"}]},
    )
    mkinf.on(
        "GET P/images",
        {"items": [{"name": "ubuntu22.04-nvidia-pcie-docker", "locations": ["us-east1-a"]}]},
    )


async def test_offers_are_shown_cheapest_first(mkinf: ScriptedMkinf, shell: Type) -> None:
    catalogue(mkinf)

    result = await shell("offers", "--location", "us-east1-a")

    table = result.output.partition("Not for rent")[0]
    lines = [line.split() for line in table.splitlines() if "us-east1-a" in line]
    assert [(words[0], words[2]) for words in lines] == [
        ("a40.1x", "1.1166"),
        ("l40s-48gb.1x", "1.2666"),
    ]
    assert "none" in lines[0]
    assert result.exit_code == 0


async def test_offers_as_json_name_the_price_as_text_and_the_sxm_gpu(
    mkinf: ScriptedMkinf, shell: Type
) -> None:
    catalogue(mkinf)

    found = json.loads((await shell("offers", "--json")).stdout)["offers"]

    by_type = {offer["type"]: offer for offer in found}
    assert by_type["l40s-48gb.1x"]["usd_per_hour"] == "1.26664"
    assert by_type["a100-80gb-sxm"]["unrentable"].startswith("priced per GPU")


async def test_a_list_is_a_table_for_people_and_json_for_programs(
    mkinf: ScriptedMkinf, shell: Type
) -> None:
    mkinf.on("GET P/vms", {"items": [VM, {"id": 1}]})

    table = await shell("cloud", "vms")
    document = json.loads((await shell("cloud", "vms", "--json")).stdout)

    assert "as1-llama-7f3a9c" in table.output
    assert "203.0.113.24" in table.output
    assert "not complete: item 1" in table.output
    assert document["complete"] is False
    assert document["items"][0]["network_interfaces"][0]["ips"][0]["public_ipv4"]["address"]


async def test_what_destroys_asks_first_and_no_means_no(mkinf: ScriptedMkinf, shell: Type) -> None:
    mkinf.on("GET P/vms/v1", VM)
    mkinf.on("DELETE P/vms/v1", CREATED)

    refused = await shell("cloud", "delete", "v1", stdin="n\n")
    mute = await shell("cloud", "delete", "v1")
    assert not mkinf.calls("DELETE P/vms/v1")
    agreed = await shell("cloud", "delete", "v1", "--yes")

    assert "as1-llama-7f3a9c (l40s-48gb.1x, RUNNING" in refused.output
    assert (refused.exit_code, mute.exit_code, agreed.exit_code) == (1, 2, 0)
    assert "say --yes" in mute.output
    assert len(mkinf.calls("DELETE P/vms/v1")) == 1


async def test_create_says_the_price_and_fits_the_image(
    mkinf: ScriptedMkinf, shell: Type, tmp_path: Path
) -> None:
    catalogue(mkinf)
    mkinf.on("POST P/vms", CREATED)
    public = tmp_path / "id.pub"
    public.write_text("ssh-ed25519 AAAA me\n")
    words = ["cloud", "create", "box", "--type", "l40s-48gb.1x", "--location", "us-east1-a"]

    result = await shell(*words, "--ssh-public-key", str(public), stdin="y\n")

    assert "for $1.27/h until deleted?" in result.output
    (sent,) = mkinf.calls("POST P/vms")
    assert isinstance(sent.body, dict)
    assert sent.body["image"] == "ubuntu22.04-nvidia-pcie-docker"
    assert sent.body["ssh_public_key"] == "ssh-ed25519 AAAA me"


async def test_a_name_of_the_daemons_form_is_refused(shell: Type, tmp_path: Path) -> None:
    result = await shell(
        "cloud", "create", "as1-commands-abcdefghijklm-1-x", "--type", "t", "--location", "l",
        "--ssh-public-key", str(tmp_path / "k"),
    )  # fmt: skip

    assert result.exit_code == 2
    assert "are the daemon's" in result.output


async def test_the_billing_link_is_printed_only_when_asked_for(
    mkinf: ScriptedMkinf, shell: Type
) -> None:
    mkinf.on("GET /projects", [{"id": PROJECT, "organization_id": "o1"}])
    mkinf.on("GET /organizations/o1/billing", {"url": "https://pay.example/x"})

    assert "https://pay.example/x" in (await shell("cloud", "billing")).output


async def test_a_refused_key_ends_with_its_own_status_and_no_trace(
    mkinf: ScriptedMkinf, shell: Type
) -> None:
    mkinf.on("GET P/vms", status(401, {"code": "401", "message": f"bad_credential {KEY}"}))

    result = await shell("cloud", "vms")

    assert result.exit_code == 3
    assert "error: GET /projects/{project_id}/vms: 401" in result.output
    assert KEY not in result.output
    assert "Traceback" not in result.output


async def test_a_key_that_others_may_read_is_refused_with_the_remedy(
    shell: Type, key_file: Path
) -> None:
    os.chmod(key_file, 0o644)

    result = await shell("cloud", "vms")

    assert result.exit_code == 2
    assert f"chmod 600 {key_file}" in result.output


async def test_a_missing_config_says_what_to_give(tmp_path: Path) -> None:
    missing = str(tmp_path / "config.toml")

    result = await asyncio.to_thread(CliRunner().invoke, cloud_app, ["vms", "--config", missing])

    assert result.exit_code == 2
    assert "--config" in result.output


async def test_colours_of_the_clouds_do_not_reach_the_terminal(
    mkinf: ScriptedMkinf, shell: Type
) -> None:
    mkinf.on("GET P/vms", {"items": [{**VM, "name": "\x1b[31mred\nnext [bold]x"}]})

    result = await shell("cloud", "vms")

    assert "\x1b[31m" not in result.output
    assert "[bold]x" in result.output


async def test_the_endpoints_are_listed_with_their_marks() -> None:
    result = await asyncio.to_thread(CliRunner().invoke, cloud_app, ["endpoints", "--json"])

    marks = {each["name"]: each["mark"] for each in json.loads(result.stdout)["items"]}
    assert marks["vm_create"] == "documented"
    assert marks["vm_delete"] == "inferred"
