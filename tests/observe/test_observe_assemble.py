"""From policies to feeds: every kind of source, and what is refused."""

from __future__ import annotations

import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import get_args

import aiohttp
import pytest

from autoscaler.config import Config
from autoscaler.domain.signals import FigureName
from autoscaler.errors import ConfigError
from autoscaler.observe.assemble import build_feed
from autoscaler.observe.mapping import KEYS
from autoscaler.observe.merge import Role
from autoscaler.observe.prometheus import AGE, SOURCES
from autoscaler.observe.targets import rounded_goals
from autoscaler.policy import Policy, Source

DOCS = Path(__file__).parents[2] / "docs" / "signals.md"
URL = "http://127.0.0.1:9090"


def policy(*sources: dict[str, object], engine: str = "vllm", **more: object) -> Policy:
    signals: dict[str, object] = {"sources": list(sources)} if sources else {}
    server = {"script": "s.sh"} if engine == "custom" else {}
    return Policy.model_validate(
        {"schema": 1, "model": "m", "engine": engine, "server": server, "signals": signals} | more
    )


def config(**more: object) -> Config:
    cloud = {"url": "http://127.0.0.1:1", "owner": "abcd1234", "key_file": "/k"}
    return Config.model_validate({"schema": 1, "cloud": cloud} | more)


def two_haproxies() -> Config:
    proxies = [{"name": name, "socket": f"/run/{name}.sock"} for name in ("east", "west")]
    return config(balancer="haproxy", haproxy=proxies)


def built(
    session: aiohttp.ClientSession, of: Policy, by: Config | None = None
) -> list[tuple[str, Role]]:
    feed = build_feed(of, by or config(), session)
    return [(feeder.source.name, feeder.role) for feeder in feed.feeders]


async def test_the_default_is_the_gateway_and_the_engines(session: aiohttp.ClientSession) -> None:
    expected = [("gateway", Role.FRONT), ("engine", Role.INSIDE)]

    for engine in ("vllm", "sglang", "llama.cpp", "embedding"):
        assert built(session, policy(engine=engine)) == expected


async def test_an_engine_of_unknown_page_is_left_out_of_the_default(
    session: aiohttp.ClientSession,
) -> None:
    assert built(session, policy(engine="custom")) == [("gateway", Role.FRONT)]


async def test_with_haproxy_every_one_of_them_and_the_activator_are_fronts(
    session: aiohttp.ClientSession,
) -> None:
    assert built(session, policy(), two_haproxies()) == [
        ("haproxy-east", Role.FRONT),
        ("haproxy-west", Role.FRONT),
        ("gateway", Role.FRONT),
        ("engine", Role.INSIDE),
    ]


async def test_every_kind_of_source_can_be_named(session: aiohttp.ClientSession) -> None:
    named = policy(
        {"kind": "prometheus", "url": URL, "queries": {"waiting": "w"}, "name": "queue"},
        {"kind": "prometheus", "url": URL},
        {"kind": "page", "mapping": {"waiting": "tgi_queue_size"}, "path": "/m"},
        {"kind": "haproxy", "socket": "/run/h.sock", "backend": "b"},
        {"kind": "haproxy", "url": "http://127.0.0.1:8404", "name": "edge"},
        {"kind": "gateway", "socket": "/run/g.sock", "max_age": "20s"},
    )

    assert built(session, named) == [
        ("queue", Role.WHOLE),
        ("prometheus", Role.WHOLE),
        ("page", Role.INSIDE),
        ("haproxy", Role.FRONT),
        ("edge", Role.FRONT),
        ("gateway", Role.FRONT),
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "prometheus"}, "needs a url"),
        ({"kind": "page"}, "needs a mapping"),
        ({"kind": "page", "mapping": {"waiting": "rate(x)"}}, "not a sum of series"),
        ({"kind": "haproxy"}, "needs a socket"),
        ({"kind": "prometheus", "url": URL, "queries": {"w": "1"}}, r"queries\.w"),
    ],
)
async def test_a_source_that_lacks_something_says_what(
    session: aiohttp.ClientSession, source: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        built(session, policy(source))


async def test_two_sources_of_one_name_are_refused(session: aiohttp.ClientSession) -> None:
    with pytest.raises(ConfigError, match="two are called 'gateway'"):
        built(session, policy({"kind": "gateway"}, {"kind": "gateway"}))


async def test_no_engine_page_is_guessed_for_a_custom_engine_or_prometheus(
    session: aiohttp.ClientSession,
) -> None:
    with pytest.raises(ConfigError, match='kind = "page"'):
        built(session, policy({"kind": "engine"}, engine="custom"))
    with pytest.raises(ConfigError, match="none given"):
        built(session, policy({"kind": "prometheus", "url": URL}, engine="custom"))


async def test_the_history_reaches_as_far_as_decisions_look_at_any_pace(
    session: aiohttp.ClientSession,
) -> None:
    slow = build_feed(policy(), config(), session)
    fast = build_feed(policy(), config(timings={"reconcile": "100ms"}), session)

    assert slow.settings.keep == 2 * 3600 / 15 + 1
    assert fast.settings.keep >= timedelta(minutes=30) / timedelta(milliseconds=100)
    assert fast.settings.keep < 2 * 3600 * 10


@pytest.mark.parametrize(
    ("engine", "slo", "said"),
    [
        ("vllm", "95% of first tokens within 1s, 95% of tokens within 50ms", []),
        ("vllm", "95% of first tokens within 2s", ["slo.ttft: 2 s lies between", "taken at 1 s"]),
        ("sglang", "95% of first tokens within 2s", []),
        ("sglang", "95% of first tokens within 50ms", ["slo.ttft: 0.05 s lies below"]),
        ("llama.cpp", "95% of first tokens within 3s", []),
    ],
)
def test_a_goal_between_two_edges_of_the_engine_is_said(
    engine: str, slo: str, said: list[str]
) -> None:
    notes = " ".join(rounded_goals(policy(engine=engine, slo=slo)))

    assert all(part in notes for part in said)
    assert bool(notes) == bool(said)


async def test_every_example_of_the_docs_builds_a_feed(session: aiohttp.ClientSession) -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)

    for example in examples:
        table = tomllib.loads(example) | {"schema": 1, "model": "m", "engine": "vllm"}
        build_feed(Policy.model_validate(table), config(), session)
    assert len(examples) == 4


def test_the_docs_name_every_figure_key_and_kind_of_source() -> None:
    text = DOCS.read_text()
    kinds = get_args(Source.model_fields["kind"].annotation)

    for word in (*FigureName, *KEYS, *kinds, SOURCES, AGE):
        assert f"`{word}`" in text, word


def test_no_module_of_this_package_opens_a_redirect_or_trusts_the_environment() -> None:
    root = Path(__file__).parents[2] / "autoscaler" / "observe"
    text = "".join(path.read_text() for path in root.glob("*.py"))

    assert "trust_env=True" not in text
    assert "allow_redirects=True" not in text
    assert text.count("allow_redirects=False") == text.count("session.get(") + text.count(
        "session.post("
    )
