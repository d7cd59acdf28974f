"""One model server as the gateway sees it: where it is, what it has in flight, whether it takes more."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from autoscaler.gateway.affinity import hash64

# One that fails each request fails fast, looks idle, and so would draw all traffic: it rests after a streak.
ERROR_STREAK = 5


class EndpointState(StrEnum):
    """Whether an endpoint is given new requests."""

    ACTIVE = "active"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Trust:
    """What a server of an https URL must show: a certificate of this authority (PEM) with this name."""

    authority: str
    host_name: str


@dataclass(eq=False, slots=True)
class Endpoint:
    """One model server as the gateway sees it. Wall-clock times are Unix seconds.

    Attributes:
        trust: for an https URL; without it the system's authorities must vouch for the URL's host.
    """

    id: str
    url: str
    weight: float = 1.0
    max_inflight: int = 0  # 0: no bound
    state: EndpointState = EndpointState.ACTIVE
    in_flight: int = 0
    elsewhere: int = 0  # in flight there at processes that this one took over from
    requests_total: int = 0
    drained_at: float | None = None
    last_request_ended_at: float | None = None
    connect_failures: int = 0  # in a row
    error_streak: int = 0  # answers of status 500 and above, or none, in a row
    resting_until: float = 0.0  # monotonic
    is_probed: bool = False
    picked: int = 0
    trust: Trust | None = None
    seed: int = field(init=False)

    def __post_init__(self) -> None:
        self.seed = hash64(self.id.encode())

    @property
    def way(self) -> str:
        """What tells its connections from those of another that had its address."""
        return self.url if self.trust is None else f"{self.url} {self.trust.host_name}"

    @property
    def load(self) -> int:
        """All requests in flight there, whichever of our processes placed them."""
        return self.in_flight + self.elsewhere

    def takes(self, now: float) -> bool:
        """Say whether a new request may go here: active, not full, and not resting."""
        if self.state is not EndpointState.ACTIVE:
            return False
        if self.max_inflight and self.load >= self.max_inflight:
            return False
        if self.error_streak >= ERROR_STREAK and now < self.resting_until:
            return False
        # After a failure one request tries the endpoint, while the others keep waiting.
        return not self.connect_failures or (not self.is_probed and now >= self.resting_until)
