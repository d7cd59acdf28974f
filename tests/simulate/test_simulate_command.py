"""`autoscaler simulate`: a table for people, JSON for programs, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from autoscaler.cli.app import app
from autoscaler.simulate import command
from autoscaler.traces.reader import write_trace
from tests.simulate.world_parts import steady

POLICY = """
schema = 1
model = "Qwen/Qwen3-8B"
engine = "vllm"
slo = "95% of first tokens within 2s"
hardware = { types = ["*.1x"] }
server = { max_model_len = 16384 }
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "policy.toml").write_text(POLICY)
    write_trace(tmp_path / "trace.csv", steady(0.2, 1800.0))
    return tmp_path


def ask(
    files: Path, *options: str, policy: str = "policy.toml", trace: str = "trace.csv"
) -> Result:
    named = ("--policy", str(files / policy), "--trace", str(files / trace))
    return CliRunner().invoke(app, ["simulate", *named, *options])


def test_it_says_what_a_trace_would_have_cost_and_how_many_were_in_time(files: Path) -> None:
    told = ask(files, "--boot", "60s", "--boot-sigma", "0")

    assert told.exit_code == 0, told.output
    lines = dict(line.split(maxsplit=1) for line in told.stdout.splitlines()[1:])
    assert told.stdout.startswith("Qwen/Qwen3-8B: 360 requests in 30m, boots 1m")
    assert "per 1,000 requests" in lines["money"]
    assert "of first tokens within 2 s (goal 95%)" in told.stdout
    assert "360 answered · 12 held without a node · 0 queued · 0 lost" in lines["requests"]
    assert "1 launched (1 " in lines["actions"]


def test_json_has_every_figure_and_the_story_by_the_minute(files: Path) -> None:
    told = ask(files, "--json", "--scale", "2", "--since", "0.1", "--until", "0.6", "--seed", "4")

    story = orjson.loads(told.stdout)
    assert 350 < story["requests"]["came"] < 600
    assert story["length_s"] == 1800.0
    assert float(story["usd"]["total"]) > 0
    assert len(story["minutes"]) == 30
    assert set(story["gpu_hours"]) == {"serving", "idle", "boot", "leave", "wasted", "total"}
    assert story["seed"] == 4
    assert orjson.loads(ask(files, "--json").stdout)["requests"]["came"] == 360


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--boot", "3"), "--boot: found '3': write a duration such as \"90s\""),
        (("--boot", "9d"), "--boot: found '9d', allowed: 1s to 1d"),
        (("--since", "9"), "no requests to replay: its last request comes at hour 0.50"),
        (("--since", "2", "--until", "1"), "--until: found 1, allowed: more than --since 2"),
        (("--stock-out", "1.5"), "stock-out"),
        (("--config", "nowhere.toml"), "nowhere.toml"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(
    files: Path, options: tuple[str, ...], said: str
) -> None:
    told = ask(files, *options)

    assert told.exit_code == 2
    assert said in told.stderr


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        (None, "no such file"),
        ("arrival_s,prompt_tokens\n1,2\n", ":1: no column output_tokens"),
        ("arrival_s,prompt_tokens,output_tokens\n1,many,2\n", ":2: prompt_tokens: found 'many'"),
        ("arrival_s,prompt_tokens,output_tokens\n", "no requests to replay: it is empty"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n",
            "looks like azure: run `autoscaler trace import ",
        ),
        (
            "arrival_s,prompt_tokens,output_tokens,model\n1,2,3,other\n",
            "model: found other; allowed: Qwen/Qwen3-8B or one of its aliases",
        ),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_named_with_its_line(
    files: Path, trace: str | None, said: str
) -> None:
    if trace is not None:
        (files / "given.csv").write_text(trace)

    told = ask(files, trace="given.csv")

    assert told.exit_code == 2
    assert f"{files}/given.csv" in told.stderr
    assert said in told.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("Qwen/Qwen3-8B", "acme/secret-7b"), "nothing is known of the size of acme/secret-7b"),
        (("*.1x", "h100*"), "the policy allows none of the offers"),
        (("slo =", "slow ="), "slow"),
    ],
)
def test_a_policy_that_cannot_be_simulated_is_named_with_the_reason(
    files: Path, change: tuple[str, str], said: str
) -> None:
    (files / "other.toml").write_text(POLICY.replace(*change))

    told = ask(files, policy="other.toml")

    assert told.exit_code == 2
    assert "other.toml" in told.stderr
    assert said in told.stderr


def test_a_trace_of_several_models_gives_this_one_its_own_requests(files: Path) -> None:
    rows = "".join(f"{i},100,10,{'m' if i % 3 else 'Qwen/Qwen3-8B'}\n" for i in range(30))
    (files / "many.csv").write_text("arrival_s,prompt_tokens,output_tokens,model\n" + rows)

    told = ask(files, "--json", trace="many.csv")

    assert orjson.loads(told.stdout)["requests"]["came"] == 10


@pytest.mark.parametrize(
    "more",
    [
        'locations = ["us-*", "eu-west1-b"]',
        "\n[spread]\nsurvive_location = 0.5",
    ],
)
def test_a_policy_that_names_places_is_simulated_as_if_each_had_every_type(
    files: Path, more: str
) -> None:
    (files / "there.toml").write_text(
        POLICY.replace('types = ["*.1x"] }', f'types = ["*.1x"], {more} }}')
        if more.startswith("loc")
        else POLICY + more
    )

    told = ask(files, "--json", policy="there.toml")

    assert orjson.loads(told.stdout)["actions"]["launches"] >= 1


@pytest.mark.parametrize(
    ("during", "said"),
    [("run", "stopped at hour 0.0 of 0.5: no result\n"), ("sniff", "stopped: no result\n")],
)
def test_ctrl_c_ends_it_with_a_word_and_no_result(
    files: Path, monkeypatch: pytest.MonkeyPatch, during: str, said: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, during, interrupted)
    told = ask(files)

    assert (told.exit_code, told.stdout, told.stderr) == (130, "", said)
