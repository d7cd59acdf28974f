"""A real Prometheus: it scrapes the daemon and the nodes that the daemon lists, and a policy scales by its answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.e2e.world import World
from tests.observe.parts import answers, binary, process, until
from tests.world.files import free_port

pytestmark = pytest.mark.e2e


async def test_prometheus_scrapes_daemon_and_nodes_and_a_model_scales_by_it(bare: World) -> None:
    page, port = f"127.0.0.1:{free_port()}", free_port()
    await asyncio.gather(bare.start_emulator(), bare.start_gateway("--metrics", page))
    config = bare.directory / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 400ms, scrape_timeout: 400ms}\n"
        "scrape_configs:\n"
        f"- {{job_name: daemon, static_configs: [{{targets: ['127.0.0.1:{bare.serve_port}']}}]}}\n"
        f"- {{job_name: gateway, static_configs: [{{targets: ['{page}']}}]}}\n"
        "- job_name: nodes\n"
        f"  http_sd_configs: [{{url: '{bare.serve}/sd', refresh_interval: 500ms}}]\n"
    )
    url = f"http://127.0.0.1:{port}"
    command = (
        binary("prometheus", "prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={bare.directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    log = bare.directory / "prometheus.log"
    async with process(*command, log=log):
        await until(lambda: answers(bare.session, f"{url}/-/ready"), log)
        label = "{model=$model}"
        queries = {
            "sources": f"count(autoscaler_gateway_requests_waiting{label})",
            "age": f"max(time() - timestamp(autoscaler_gateway_requests_waiting{label}))",
            "waiting": f"sum(autoscaler_gateway_requests_waiting{label})",
            "running": f"sum(autoscaler_gateway_requests_in_flight{label})",
            "arrivals": f"sum(rate(autoscaler_gateway_arrivals_total{label}[$window]))",
        }
        bare.write_policy(
            nodes={"min": 0, "max": 1},
            signals={"sources": [{"kind": "prometheus", "url": url, "queries": queries}]},
        )
        await bare.start_daemon()

        answer = await bare.ask()

        assert answer.whole, (answer, bare.logs())
        (node,) = await bare.ready()

        async def all_up() -> bool:
            await bare.ask()  # a node that idles goes after some seconds, scraped or not
            up = await _query(bare, url, "max by (job) (max_over_time(up[1m]))")
            found = {r["metric"]["job"]: r["value"][1] for r in up}
            return found == {"daemon": "1", "gateway": "1", "nodes": "1"}

        await bare.until(all_up, "Prometheus reaches the daemon, the gateway and the node")
        by_model = await _query(bare, url, "last_over_time(vllm:num_requests_running[1m])")
        assert by_model[0]["metric"]["offer"] == node["type"]
        await bare.is_empty()
        ready = await _query(bare, url, "max_over_time(autoscaler_ready_replicas[1m])")
        assert float(ready[0]["value"][1]) > 0


async def _query(there: World, url: str, query: str) -> list[Any]:
    async with there.session.get(f"{url}/api/v1/query", params={"query": query}) as answer:
        return list((await answer.json())["data"]["result"])
