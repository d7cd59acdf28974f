"""The llama.cpp server's names (`--metrics`).

It counts no requests and keeps no histograms: arrivals and latencies come from the balancer. Its KV-cache gauge was
taken out in 2025 and is read where it still stands.
"""

from __future__ import annotations

from autoscaler.observe import dialect as d
from autoscaler.observe.dialect import Dialect, names

LLAMA_CPP = Dialect(
    name="llama.cpp",
    of={
        d.WAITING: names("llamacpp:requests_deferred"),
        d.RUNNING: names("llamacpp:requests_processing"),
        d.KV_USE: names("llamacpp:kv_cache_usage_ratio"),
        d.PROMPT: names("llamacpp:prompt_tokens_total"),
        d.OUTPUT: names("llamacpp:tokens_predicted_total"),
    },
)
