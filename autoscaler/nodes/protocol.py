"""What a node's life needs of the node itself: proof that it is ours, that it serves, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from autoscaler.domain.node import Node
from autoscaler.domain.offer import Offer
from autoscaler.policy import Policy


@dataclass(frozen=True, slots=True)
class Coming:
    """Not verified yet, and nothing is wrong.

    Attributes:
        stage: where the startup script or the verification stands.
    """

    stage: str


@dataclass(frozen=True, slots=True)
class Proven:
    """The node is what it should be and answered one real request.

    Attributes:
        tokens_per_s: speed of the warm-up generation, None for embeddings.
        detail: GPUs, driver, stages with their times, for the event log.
    """

    tokens_per_s: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class Ailment:
    """What is wrong with a ready node as seen from here.

    Attributes:
        reached: it answered over SSH with its pinned key, so that no network of ours is what is wrong.
        gpus: its servers answer, but its own nvidia-smi or kernel says that a GPU is sick: one witness, and nothing
            that cannot wait for the requests in flight.
    """

    what: str
    reached: bool = False
    gpus: bool = False


class Prober(Protocol):
    """Looks at one node over SSH and HTTP. Every method is bounded in time and may be repeated."""

    async def contact(self, node: Node) -> str:
        """Prove the host key by the node's nonce and return it, to be pinned.

        Raises:
            NodeUnreachable: no SSH yet, our key is not installed yet, or the proof is not written yet.
            HostKeyMismatch: the proof does not fit the key shown.
        """

    async def verify(self, node: Node, policy: Policy, offer: Offer | None) -> Coming | Proven:
        """Look how far the node is.

        Raises:
            NodeUnreachable: no answer now.
            HostKeyMismatch, VerificationFailed: it will never serve; the message says what to do.
        """

    async def ailment(
        self, node: Node, policy: Policy, offer: Offer | None = None
    ) -> Ailment | None:
        """What is wrong with a ready node as seen from here, None when it answers.

        Args:
            offer: what was rented, to hold its GPUs against; None when the market is not known.
        """

    async def in_flight(self, node: Node, policy: Policy) -> int | None:
        """Requests running and waiting in its model servers; None when they do not say."""

    async def diagnostics(self, node: Node, policy: Policy | None) -> str:
        """What can still be saved: the last lines of its logs, redacted and bounded. Never raises for a dead node."""
