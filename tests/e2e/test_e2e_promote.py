"""A model in shadow until a person promotes it, and a person's other words: priced, asked, audited."""

from __future__ import annotations

import os
import pwd

import pytest

from tests.e2e.conftest import Build
from tests.e2e.world import MODEL, World

pytestmark = pytest.mark.e2e
ME = pwd.getpwuid(os.getuid()).pw_name


async def rented_on_paper(there: World) -> None:
    async def has() -> bool:
        shadow = (await there.model())["shadow"]
        return bool(shadow and shadow["launches"])

    await there.until(has, "it has rented on paper")


async def test_a_model_in_shadow_rents_on_paper_until_it_is_promoted(world: Build) -> None:
    there = await world(mode="shadow", nodes={"min": 1, "max": 2})
    await rented_on_paper(there)
    await there.end("daemon")
    await there.start_daemon()

    unasked = await there.command("promote", "chat")
    told = (await there.model())["shadow"]
    nothing = await there.billing()
    said = await there.command("promote", "chat", "--yes")
    (node,) = await there.ready()
    again = await there.command("promote", "chat", "--yes")

    assert told["launches"] == 1
    assert (unasked.code, nothing) == (2, [])
    assert "say --yes" in unasked.err
    assert "launches 1, releases 0, most nodes 1" in said.out
    assert f"{MODEL}: 0 nodes $0.00/h -> 1 node $" in said.out
    assert "+ 1 x " in said.out
    assert "of all models: $20.00/h, $1000.00/month, 10 nodes" in said.out
    assert again.code == 2
    assert "not in shadow" in again.err
    promoted = [e for e in await there.events(model=MODEL) if e["kind"] == "model_promoted"]
    assert [e["actor"] for e in promoted] == [ME]
    assert node["model"] == MODEL


async def test_a_promote_of_what_could_not_rent_is_refused_with_what_to_do(world: Build) -> None:
    there = await world(mode="shadow", limit="$0.10/h")
    low = await there.command("promote", "chat", "--yes")
    plan = await there.command("plan", "chat")
    trouble = (await there.get("/api/v1/status"))["trouble"]
    (there.directory / "policies" / "other.toml").write_text("model = 3\n")

    broken = await there.command("promote", "chat", "--yes")

    assert (low.code, broken.code) == (2, 2)
    assert "other.toml" in broken.err
    assert "Mend this, then promote" in broken.err
    for text in (low.err, plan.out, " ".join(trouble)):
        said = " ".join(text.split())
        assert "limit of test/chat is $0.10/h, below the price of one VM" in said
        assert "raise it to at least $" in said
    assert (await there.model())["mode"] == "shadow"


async def test_a_persons_words_show_their_price_ask_and_are_audited(world: Build) -> None:
    there = await world(nodes={"min": 1, "max": 2})
    await there.ready()

    asked = [
        await there.command(*words)
        for words in (("pause", "chat"), ("retire", "chat"), ("scale", "chat", "--clear"))
    ]
    more = await there.command("scale", "chat", "--nodes", "2", "--for", "1h", "--yes")
    await there.ready(2)
    beyond = await there.command("scale", "chat", "--nodes", "3", "--for", "1h", "--yes")
    override = (await there.model())["override"]
    less = await there.command("scale", "chat", "--clear", "--yes")
    zero = await there.command("retire", "chat", "--yes")
    await there.is_empty()

    assert [said.code for said in asked] == [2, 2, 2]
    assert all("say --yes" in said.err for said in asked)
    assert "1 node $" in more.out
    assert "-> 2 nodes $" in more.out
    assert beyond.code == 2
    assert "--beyond-max" in beyond.err
    assert (override["nodes"], override["by"]) == (2, ME)
    assert less.code == 0
    assert "-> 0 nodes $0.00/h" in zero.out
    assert "no request is in flight there" in zero.out
    kinds = {e["kind"]: e["actor"] for e in await there.events(model=MODEL)}
    assert kinds["model_scaled"] == kinds["override_cleared"] == kinds["model_retired"] == ME


async def test_the_actor_is_the_kernels_word_and_not_the_clients(
    world: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = await world()
    monkeypatch.setenv("LOGNAME", "mallory")

    said = await there.command("pause", "chat", "--yes")
    (paused,) = [e for e in await there.events(model=MODEL) if e["kind"] == "model_paused"]

    assert said.code == 0
    assert paused["actor"] == ME
