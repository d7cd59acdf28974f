"""How many requests a node's model servers hold, by their own count: the tie-breaker of a drain."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import aiohttp

from autoscaler.errors import NodeUnreachable, VerificationFailed
from autoscaler.nodes.verify_http import ask
from autoscaler.policy import Engine, Policy

_TIMEOUT_S = 5.0
_RUNNING_AND_WAITING: Mapping[Engine, tuple[str, str]] = {
    Engine.VLLM: ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    Engine.SGLANG: ("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    Engine.LLAMA_CPP: ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
}
_GAUGE = re.compile(r"(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)(?:\{.*\})?\s+(?P<value>\S+)(?:\s+-?\d+)?")


async def requests_in(
    http: aiohttp.ClientSession, urls: tuple[str, ...], policy: Policy
) -> int | None:
    """Requests running and waiting in these servers; None when any of them does not say."""
    names = _RUNNING_AND_WAITING.get(policy.engine)
    if names is None or not urls:
        return None
    total = 0
    for url in urls:
        try:
            answer = await ask(http, url + policy.server.metrics_path, timeout_s=_TIMEOUT_S)
        except (NodeUnreachable, VerificationFailed):
            return None
        held = held_requests(answer.body.decode("utf-8", "replace"), names)
        if answer.status != 200 or held is None:
            return None
        total += held
    return total


def held_requests(page: str, names: tuple[str, str]) -> int | None:
    """The sum of these gauges over all their labels; None when one is missing or absurd."""
    sums: dict[str, float] = {}
    for line in page.splitlines():
        if line.startswith(names) and (match := _GAUGE.fullmatch(line.strip())):
            try:
                value = float(match["value"])
            except ValueError:
                return None
            sums[match["name"]] = sums.get(match["name"], 0.0) + value
    found = [sums.get(name) for name in names]
    if any(value is None or not math.isfinite(value) or not 0 <= value < 1e6 for value in found):
        return None
    return math.ceil(sum(value for value in found if value is not None))
