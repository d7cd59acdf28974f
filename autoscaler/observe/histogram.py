"""Quantiles and attainment from a histogram's cumulative counts.

A quantile is linear inside a bucket, so with coarse edges it may be anything in there. The share of observations at
or below an edge is exact: that is why targets belong on edges, and why one between two edges is rounded *down*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

# `le="0.1"` and a target of 0.1 written as 100 ms may differ in their last bit.
_SAME = 1e-9


def parse_edge(text: str) -> float | None:
    """Read an `le` label: "1.0" and "1" are the same edge, "+Inf" is infinity; None for anything else."""
    try:
        edge = float(text)
    except ValueError:
        return None
    return None if math.isnan(edge) else edge


def edge_at_or_below(edges: Iterable[float], target_s: float) -> float | None:
    """Round a target down to an edge; None when it lies below all of them and nothing can be said."""
    below = [edge for edge in edges if edge <= target_s * (1 + _SAME)]
    return max(below, default=None)


def count(cumulative: Mapping[float, float]) -> float:
    """How many observations there are."""
    return max(cumulative.values(), default=0.0)


def quantile(cumulative: Mapping[float, float], q: float) -> float | None:
    """The q-quantile, linear inside its bucket; the last finite edge when it lies above all of them.

    None when there is no observation or no finite edge.
    """
    total = count(cumulative)
    if total <= 0:
        return None
    rank = q * total
    lower, below, last = 0.0, 0.0, None
    for edge in sorted(cumulative):
        # a hostile page's counts may fall from edge to edge: taken as not growing
        at_or_below = max(below, cumulative[edge])
        if math.isinf(edge):
            break
        if at_or_below >= rank:
            inside = at_or_below - below
            return lower + (edge - lower) * ((rank - below) / inside if inside > 0 else 1.0)
        lower, below, last = edge, at_or_below, edge
    return last


def attained(cumulative: Mapping[float, float], target_s: float) -> float | None:
    """The share of observations within the target, rounded down to an edge; None when that cannot be said."""
    total = count(cumulative)
    edge = edge_at_or_below((edge for edge in cumulative if not math.isinf(edge)), target_s)
    if total <= 0 or edge is None:
        return None
    return min(1.0, max(0.0, cumulative[edge] / total))
