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
    rank_labels=frozenset({"tp_rank", "pp_rank", "moe_ep_rank"}),
)

# The edges of its histograms, in seconds: `validate` warns of a target between two of them.
SGLANG_TTFT_EDGES_S = (
    *(0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0),
    *(200.0, 400.0),
)
SGLANG_ITL_EDGES_S = (
    *(0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08, 0.1),
    *(0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0),
)
