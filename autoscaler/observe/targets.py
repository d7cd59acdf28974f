"""What a source can say exactly of a latency goal, for `validate`: a goal between two edges is rounded down."""

from __future__ import annotations

from autoscaler.observe.histogram import edge_at_or_below
from autoscaler.observe.sglang import SGLANG_ITL_EDGES_S, SGLANG_TTFT_EDGES_S
from autoscaler.observe.vllm import ITL_EDGES_S, TTFT_EDGES_S
from autoscaler.policy import Engine, Policy

_EDGES = {
    Engine.VLLM: (TTFT_EDGES_S, ITL_EDGES_S),
    Engine.SGLANG: (SGLANG_TTFT_EDGES_S, SGLANG_ITL_EDGES_S),
}


def rounded_goals(policy: Policy) -> tuple[str, ...]:
    """Say of each latency goal of the policy how its engine's histogram rounds it; empty when it lies on an edge.

    Where the embedded gateway is the first source, the goal is measured there, on finer edges; this is then about the
    engine's own figure, which stands in when the gateway has none.
    """
    if policy.engine not in _EDGES:
        return ()
    ttft_edges, itl_edges = _EDGES[policy.engine]
    notes = []
    for key, goal, edges in (
        ("slo.ttft", policy.slo.ttft, ttft_edges),
        ("slo.itl", policy.slo.itl, itl_edges),
    ):
        if goal is None:
            continue
        goal_s = goal.total_seconds()
        edge_s = edge_at_or_below(edges, goal_s)
        if edge_s is None:
            notes.append(
                f"{key}: {goal_s:g} s lies below the first edge ({edges[0]:g} s) of {policy.engine}'s "
                "histogram: only the gateway can measure it"
            )
        elif abs(edge_s - goal_s) > 1e-9:
            notes.append(
                f"{key}: {goal_s:g} s lies between two edges of {policy.engine}'s histogram: its own "
                f"figure is taken at {edge_s:g} s"
            )
    return tuple(notes)
