"""A small world to run backtests in: a policy of an 8B model, two VM types, and requests by formula."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from autoscaler.domain.money import Money
from autoscaler.domain.offer import Offer, OfferKey
from autoscaler.policy import Policy
from autoscaler.simulate.job import Job, job_of
from autoscaler.simulate.market import Boots, Market
from autoscaler.traces.request import TracedRequest

BOOT_S = 120.0


def policy(**values: Any) -> Policy:
    """An 8B model whose replicas are believed to serve half a request a second: small numbers make large fleets."""
    return Policy.model_validate(
        {
            "model": "Qwen/Qwen3-8B",
            "engine": "vllm",
            "slo": "95% of first tokens within 2s",
            "nodes": {"min": 0, "max": 8},
            "typical": {"prompt_tokens": 400, "output_tokens": 200},
            "server": {"max_model_len": 16384},
            "hardware": {
                "capacity": {
                    "l40s": {"concurrency": 16, "requests_per_s": 0.5},
                    "a40": {"concurrency": 16, "requests_per_s": 0.4},
                }
            },
            **values,
        }
    )


def offer(gpu: str, price: str) -> Offer:
    return Offer(
        key=OfferKey(f"{gpu}.1x", "here"),
        price_per_hour=Money.of(price),
        gpu=gpu,
        gpus=1,
        gpu_memory_gb=48,
        vcpu=8,
        ram_gb=60,
        disk_gb=128,
        in_stock=True,
        image="image",
    )


L40S, A40 = offer("l40s", "1.25"), offer("a40", "1.10")


def market(*offers: Offer, **values: Any) -> Market:
    """Boots all of one length, nothing sold out."""
    return replace(Market(offers or (L40S,), Boots(BOOT_S, sigma=0.0)), **values)


def job(
    requests: Iterable[TracedRequest] = (),
    *,
    length_s: float = 0.0,
    on: Market | None = None,
    **values: Any,
) -> Job:
    """A backtest; what is left over are keys of the policy."""
    return job_of(policy(**values), requests, on or market(), length_s=length_s)


def steady(
    per_s: float, until_s: float, *, since_s: float = 0.0, prompt: int = 400, output: int = 200
) -> list[TracedRequest]:
    """Requests at even distances, all alike."""
    count = int((until_s - since_s) * per_s)
    return [TracedRequest(since_s + i / per_s, prompt, output) for i in range(count)]
