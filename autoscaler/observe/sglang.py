"""SGLang's names (`--enable-metrics`).

Its ranks may each repeat a figure: the largest of an instance counts, then instances add up. Its token counters move
only when a request finishes; `realtime_tokens_total` moves while it runs, and is preferred where it exists. What was
read from the prefix cache is prompt too, so both kinds of prefill are added.
"""

from __future__ import annotations

from autoscaler.observe import dialect as d
from autoscaler.observe.dialect import Dialect, Selector, names

_LIVE = "sglang:realtime_tokens_total"

SGLANG = Dialect(
    name="sglang",
    of={
        d.WAITING: names("sglang:num_queue_reqs"),
        d.RUNNING: names("sglang:num_running_reqs"),
        d.KV_USE: names("sglang:token_usage"),
        d.PROMPT: (
            (
                Selector(_LIVE, (("mode", "prefill_compute"),)),
                Selector(_LIVE, (("mode", "prefill_cache"),)),
            ),
            *names("sglang:prompt_tokens_total"),
        ),
        d.OUTPUT: (
            (Selector(_LIVE, (("mode", "decode"),)),),
            *names("sglang:generation_tokens_total"),
        ),
        # both move when a request ends; aborted ones are not among the first
        d.FINISHED: (
            (
                Selector("sglang:num_requests_total"),
                Selector("sglang:num_aborted_requests_total"),
            ),
        ),
        d.TTFT: names("sglang:time_to_first_token_seconds"),
        d.ITL: names("sglang:inter_token_latency_seconds"),
        d.QUEUE: names("sglang:queue_time_seconds"),
    },
    model_label="model_name",
    rank_labels=frozenset({"tp_rank", "pp_rank"}),
    limits_running=True,
)

# Known edges, in seconds: the first of TTFT is 0.1, the others lie with the version.
TTFT_FIRST_EDGE_S = 0.1
