"""vLLM's names, of both generations. Counters move with every step of the engine, so rates are smooth.

`…_by_reason` splits what waits: `deferred` requests wait for something of their own (a grammar, a remote cache), only
`capacity` for room. It replaces the plain gauge where it exists. Names hide one minor release after they were
deprecated and go after two, so each thing has its alternatives, newest first.
"""

from __future__ import annotations

from autoscaler.observe import dialect as d
from autoscaler.observe.dialect import Dialect, Selector, names

VLLM = Dialect(
    name="vllm",
    of={
        d.WAITING: (
            (Selector("vllm:num_requests_waiting_by_reason", (("reason", "capacity"),)),),
            *names("vllm:num_requests_waiting"),
        ),
        d.RUNNING: names("vllm:num_requests_running"),
        d.KV_USE: names("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        d.PROMPT: names("vllm:prompt_tokens_total"),
        d.OUTPUT: names("vllm:generation_tokens_total"),
        d.FINISHED: names("vllm:request_success_total"),  # with finished_reason="abort" too
        d.TTFT: names("vllm:time_to_first_token_seconds"),
        d.ITL: names("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
        d.QUEUE: names("vllm:request_queue_time_seconds"),
    },
    model_label="model_name",
)

# The edges of its histograms, in seconds: `validate` warns of a target between two of them.
TTFT_EDGES_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
ITL_EDGES_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
