"""The scrape configuration, with a real Prometheus that scrapes real pages and finds nodes by the list of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from autoscaler.act import Limits
from autoscaler.clock import SystemClock
from autoscaler.cloud.protocol import Cloud
from autoscaler.cloud.watched import Outcome
from autoscaler.config import Config, LimitSettings
from autoscaler.daemon import Daemon
from autoscaler.domain.decision import Decision, Verdict
from autoscaler.domain.ids import DecisionId, IntentId, ModelName, NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.node import Endpoint, Node, NodeEvent, State
from autoscaler.domain.offer import OfferKey
from autoscaler.domain.plan import Plan
from autoscaler.gateway.exposition import render
from autoscaler.gateway.pools import Pools
from autoscaler.gateway.settings import PoolSettings
from autoscaler.health import Health
from autoscaler.lag import LoopLag
from autoscaler.market import MarketFeed
from autoscaler.nodes.inventory import Findings
from autoscaler.nodes.reach import PlainReach
from autoscaler.policy import Policy
from autoscaler.serve.metrics import Metrics
from autoscaler.serve.server import Server
from autoscaler.serve.views import Views
from autoscaler.store.sqlite import SqliteStore
from tests.observe.parts import binary, process
from tests.world.files import free_port

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
MODEL = ModelName("org/chat-8b")
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
POLICY = Policy.model_validate({"schema": 1, "model": MODEL, "engine": "vllm"})
LIMITS = Limits(LimitSettings.model_validate({"usd_per_month": 100}), {MODEL: POLICY})
ENGINE_PAGE = "# HELP vllm:num_requests_running Running.\n# TYPE vllm:num_requests_running gauge\n"


def node(state: State, name: str, url: str) -> Node:
    return Node(
        name=NodeName(name),
        model=MODEL,
        intent=IntentId(name[14:27]),
        attempt=1,
        offer=OfferKey("l40s-48gb.1x", "us-east1-a"),
        price_per_hour=Money.of("1.25"),
        state=state,
        since=NOON,
        created_at=NOON - timedelta(minutes=4),
        epoch=1,
        decision=DecisionId("d"),
        reason="every balancer has it",
        units=1.0,
        replicas=1,
        concurrency=8,
        tensor_parallel=1,
        spec_hash="0" * 12,
        endpoints=(Endpoint(name, url, 10, 100),),
        sent_at=NOON - timedelta(minutes=4),
        ready_at=NOON,
    )


def used() -> Metrics:
    """Metrics of a daemon in which everything has happened once."""
    metrics = Metrics()
    ready = node(State.READY, "as1-0example-aaaaaaaaaaaaa-1-m", "http://127.0.0.1:1")
    decision = Decision(
        *(DecisionId("d"), MODEL, NOON, Verdict.HOLD, 1.5, 1.5, 2, 1.0, 1.0, "react", "so", ())
    )
    metrics.decided(POLICY, decision, Plan(MODEL, DecisionId("d"), NOON, shortfall=0.5))
    metrics.pass_done(MODEL, 0.02)
    metrics.pass_failed(MODEL, "CloudUnavailable")
    metrics.node_changed(_coming(ready), ready)
    metrics.requests_cut(MODEL)
    metrics.alarms.cloud_called("delete", Outcome.KEY_REFUSED)
    metrics.alarms.balancer_disagreed(MODEL)
    metrics.alarms.node_failed(replace(ready, failure="host-key: another one"))
    metrics.swept(Findings())
    metrics.reloaded(ok=True)
    return metrics


def _coming(ready: Node) -> Node:
    return replace(ready, state=State.VERIFYING, ready_at=None)


async def filled(store: SqliteStore, url: str) -> None:
    """A store with one ready node, one that boots, and one that drains."""
    lease = await store.acquire(MODEL, "test", 1.0)
    assert lease is not None
    for state, letter, there in (
        (State.READY, "a", url),
        (State.BOOTING, "b", "http://127.0.0.1:3"),
        (State.DRAINING, "c", url.replace("127.0.0.1", "127.0.0.2")),
    ):
        one = node(state, f"as1-0example-{letter * 13}-1-m", there)
        event = NodeEvent(NOON, "node_found", MODEL, one.name, state, "a test", "test")
        await store.insert(lease, one, event)


@asynccontextmanager
async def daemons_http(
    folder: Path, url: str, policies: dict[ModelName, Policy] | None = None
) -> AsyncIterator[str]:
    """The daemon's own HTTP server over a real store; the daemon around it is left out."""
    store = SqliteStore.open(folder / "store.db")
    await filled(store, url)
    port, clock = free_port(), SystemClock()
    config = Config.model_validate(
        {
            "schema": 1,
            "cloud": {"url": "http://127.0.0.1:9", "key_file": "none", "owner": "0example"},
            "runtime_dir": str(folder),
            "serve": {"listen": f"127.0.0.1:{port}"},
        }
    )
    daemon = SimpleNamespace(
        config=config,
        clock=clock,
        store=store,
        metrics=used(),
        market=MarketFeed(cast(Cloud, None), store, clock),  # never asked
        health=Health(),
        lag=LoopLag(clock),
        usage=SimpleNamespace(last=None),
        leases=SimpleNamespace(models={MODEL}),
        reconciler=SimpleNamespace(last={}, limits=lambda: LIMITS),
        views=Views(store, clock),
        book=SimpleNamespace(policies={MODEL: POLICY} if policies is None else policies),
        runner=SimpleNamespace(overdue_drains=0, held=None),
        balancers=SimpleNamespace(troubles=()),
        reach=PlainReach(),
    )
    server = Server(cast(Daemon, daemon))
    running = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(10):
            await server.listening.wait()
        yield f"http://127.0.0.1:{port}"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()


@asynccontextmanager
async def page(text: str, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """A server with one page at /metrics; its url."""
    app = web.Application()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text)

    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


def gateway_page() -> str:
    pools = Pools(asyncio.get_running_loop())
    pools.put(PoolSettings(model=MODEL))
    return render(pools)[0].decode()


async def promtool(*arguments: str, given: str = "") -> tuple[int | None, str]:
    running = await asyncio.create_subprocess_exec(
        binary("promtool", "prometheus"),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        said, _ = await running.communicate(given.encode())
    return running.returncode, said.decode()


async def test_promtool_accepts_the_scrape_configuration() -> None:
    status, said = await promtool("check", "config", str(CONFIG))

    assert status == 0, said
    assert "SUCCESS" in said


async def test_promtool_finds_nothing_to_say_about_the_daemons_page(tmp_path: Path) -> None:
    async with (
        daemons_http(tmp_path, "http://127.0.0.1:1") as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/metrics") as response,
    ):
        text = await response.text()

    assert response.status == 200
    assert await promtool("check", "metrics", given=text) == (0, "")
    assert 'autoscaler_nodes{model="org/chat-8b",state="ready"} 1.0' in text


async def test_promtool_finds_nothing_to_say_about_the_gateways_page() -> None:
    assert await promtool("check", "metrics", given=gateway_page()) == (0, "")


async def test_a_real_prometheus_scrapes_daemon_gateway_and_the_nodes_that_serve(
    tmp_path: Path,
) -> None:
    port, log = free_port(), tmp_path / "prometheus.log"
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        engine = await stack.enter_async_context(page(ENGINE_PAGE))
        draining = engine.replace("127.0.0.1", "127.0.0.2")
        await stack.enter_async_context(
            page(ENGINE_PAGE, "127.0.0.2", int(engine.rpartition(":")[2]))
        )
        gateway = await stack.enter_async_context(page(gateway_page()))
        daemon = await stack.enter_async_context(daemons_http(tmp_path, engine))
        settings = CONFIG.read_text()
        for there, here in (
            ("127.0.0.1:9110", daemon.removeprefix("http://")),
            ("127.0.0.1:9111", gateway.removeprefix("http://")),
            ("scrape_interval: 15s", "scrape_interval: 500ms"),
            ("scrape_timeout: 10s", "scrape_timeout: 500ms"),
            ("refresh_interval: 15s", "refresh_interval: 1s"),
        ):
            assert there in settings
            settings = settings.replace(there, here)
        (tmp_path / "prometheus.yml").write_text(settings)
        command = (
            binary("prometheus", "prometheus"),
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        await stack.enter_async_context(process(*command, log=log))
        api = f"http://127.0.0.1:{port}/api/v1"
        wanted = {
            ("autoscaler", f"{daemon}/metrics"),
            ("autoscaler-gateway", f"{gateway}/metrics"),
            ("model-servers", f"{engine}/metrics"),
            ("model-servers", f"{draining}/metrics"),
        }
        found = await _targets(session, api, wanted, log)
        async with session.get(f"{api}/query", params={"query": "autoscaler_nodes"}) as answer:
            series = (await answer.json())["data"]["result"]

    assert {(t["labels"]["job"], t["scrapeUrl"]) for t in found} == wanted
    of_nodes = [t["labels"] for t in found if t["labels"]["job"] == "model-servers"]
    assert {(n["model"], n["offer"], n["location"]) for n in of_nodes} == {
        (MODEL, "l40s-48gb.1x", "us-east1-a")
    }
    assert {one["metric"]["state"] for one in series} == {"ready", "booting", "draining"}


async def _targets(
    session: aiohttp.ClientSession, api: str, wanted: set[tuple[str, str]], log: Path
) -> list[dict[str, Any]]:
    """Wait until every wanted target is up; Prometheus makes its first round of discovery after 5 s."""
    seen: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(40):
            while True:
                try:
                    async with session.get(f"{api}/targets") as answer:
                        seen = (await answer.json())["data"]["activeTargets"]
                except aiohttp.ClientError:
                    seen = []
                up = {(t["labels"]["job"], t["scrapeUrl"]) for t in seen if t["health"] == "up"}
                if wanted <= up:
                    return seen
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"{seen}\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]
