"""When a node will be ready, as the daemon last estimated from measured boots; it counts down by itself.

It decides two things: what a refused client is told to wait, and whether holding a request is in vain because even the
fastest boot would come too late for it.
"""

from __future__ import annotations

from dataclasses import dataclass

# The daemon says anew with each pass. An estimate that ran out this long ago is nobody's any more.
_STALE_S = 60.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """Both are instants of the monotonic clock, in seconds.

    Attributes:
        likely_at: nine of ten boots would have ended by then.
        soonest_at: nearly none would have ended before.
    """

    likely_at: float = float("-inf")
    soonest_at: float = float("-inf")

    def retry_after_s(self, now: float, otherwise_s: float) -> float:
        """What to tell a client: what is left, a second at least; `otherwise_s` when nobody knows."""
        left_s = self.likely_at - now
        return max(1.0, left_s) if left_s > -_STALE_S else otherwise_s

    def is_in_vain(self, until: float) -> bool:
        """Say whether a request that is given up at `until` cannot live to see the node."""
        return self.soonest_at > until


UNKNOWN = Outlook()
