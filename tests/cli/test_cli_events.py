"""`autoscaler events`, without a daemon: whose story is meant, and what there is where nobody has that name."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autoscaler.cli.app import app
from autoscaler.domain.ids import IntentId, ModelName, node_name
from autoscaler.serve.views import marked
from autoscaler.store.sqlite import SqliteStore

MODEL = ModelName("Qwen/Qwen3-8B")
GONE = ModelName("acme/retired")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A deployment that has promoted one model, and another whose policy is gone."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/chat.toml").write_text(
        f'model = "{MODEL}"\nengine = "vllm"\naliases = ["chat"]\n'
    )
    path = tmp_path / "config.toml"
    path.write_text(
        'schema = 1\nstate_dir = "."\nruntime_dir = "."\npolicies = "policies"\n[cloud]\n'
        'url = "http://127.0.0.1:1/v0.1"\nkey_file = "key"\nowner = "abcdefgh"\n'
    )

    async def fill() -> None:
        store = SqliteStore.open(tmp_path / "autoscaler.db")
        for model in (MODEL, GONE):
            await store.add_event(marked(model, "model_promoted", "root", datetime.now(UTC)))
        await store.close()

    asyncio.run(fill())
    return path


def events(config: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["events", *words, "--config", str(config)])


@pytest.mark.parametrize("name", [MODEL, "Qwen3-8B", "chat", GONE])
def test_a_model_is_found_by_each_of_its_names_and_without_a_policy(
    config: Path, name: str
) -> None:
    said = events(config, name)

    assert said.exit_code == 0, said.output
    assert "model_promoted" in said.stdout
    assert len(said.stdout.splitlines()) == 2


def test_a_name_that_nobody_has_is_refused_with_those_that_there_are(config: Path) -> None:
    node = node_name("as1", "abcdefgh", IntentId("a" * 13), 1, MODEL)

    for name in ("nope", node):
        said = events(config, name)

        assert said.exit_code == 2, said.output
        assert f"{name}: no such node or model; models: {MODEL}; nodes of the last day: none" in (
            said.stderr
        )


def test_a_policy_with_a_mistake_keeps_no_story_from_being_told(config: Path) -> None:
    (config.parent / "policies/chat.toml").write_text("no toml")

    assert "model_promoted" in events(config, MODEL).stdout
