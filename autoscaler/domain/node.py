"""A node: one attempt to rent one VM, from its intent to its proven absence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from autoscaler.domain.ids import (
    DecisionId,
    IntentId,
    MachineId,
    ModelName,
    NodeName,
    OperationId,
)
from autoscaler.domain.money import ZERO, Money
from autoscaler.domain.offer import OfferKey


class State(StrEnum):
    """Where a node stands (the table of docs/architecture.md)."""

    PLANNED = "planned"  # the intent is durable
    CREATING = "creating"  # a create call may have been sent
    BOOTING = "booting"  # the cloud says that the VM exists
    VERIFYING = "verifying"  # SSH is authenticated, the host key pinned
    READY = "ready"  # every balancer has it
    DRAINING = "draining"  # no new request
    TERMINATING = "terminating"  # delete was decided
    FAILED = "failed"  # diagnostics are being saved
    LOST = "lost"  # create was never answered and nothing was found by the settling time
    CANCELLED = "cancelled"  # no create call was ever made, or its answer refused it
    GONE = "gone"  # proven absent


# Nodes that exist or may exist: they bill or may bill, and count against every limit.
MAY_BILL = frozenset(
    {
        State.PLANNED,
        State.CREATING,
        State.BOOTING,
        State.VERIFYING,
        State.READY,
        State.DRAINING,
        State.TERMINATING,
        State.FAILED,
    }
)
COMING = frozenset({State.PLANNED, State.CREATING, State.BOOTING, State.VERIFYING})
SERVING = frozenset({State.READY})
CLOSED = frozenset({State.LOST, State.CANCELLED, State.GONE})


BY_HAND = DecisionId("adopted-by-hand")  # of a node that a person rented and handed over

NODE_DOMAIN = "autoscaler.internal"  # nobody resolves it: it stands in nodes' certificates


def host_name(node: str) -> str:
    """The name that a node's certificate carries: used once, like the node's."""
    return f"{node}.{NODE_DOMAIN}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model server on a node, as balancers know it.

    Attributes:
        id: unique among all endpoints for ever: the node's name, with `.1`, `.2` … for further replicas.
        url: scheme, address and port, no path: `http://203.0.113.24:8000`.
        capacity: requests that it should carry at once (about 1.2 × B*); balancers queue beyond it.
        weight: share of traffic relative to the model's other endpoints, 1..256.
    """

    id: str
    url: str
    capacity: int
    weight: int

    @property
    def host_name(self) -> str | None:
        """The name that its certificate must carry; None where it speaks plain HTTP."""
        return host_name(self.id.partition(".")[0]) if self.url.startswith("https://") else None


@dataclass(frozen=True, slots=True)
class Node:
    """One row of the store: all that a successor needs to go on with this node.

    Attributes:
        since: when it entered `state`.
        created_at: when its intent was recorded; the meter runs from here to `gone_at`.
        epoch: the lease's epoch under which the intent was recorded.
        units: capacity in reference replicas that the plan counts on.
        concurrency: requests that one of its replicas should carry at once (B*).
        replicas: model servers on it; each has an endpoint once booted.
        nonce: the secret of the host-key proof, erased once pinned.
        host_key: the pinned public key, `ssh-ed25519 AAAA…`.
        reason: why it is in this state.
        failure: why it failed, kept through terminating and gone.
        stage: the startup script's last reported stage.
        first_look_at: when this process or an earlier one first looked for the unanswered create.
    """

    name: NodeName
    model: ModelName
    intent: IntentId
    attempt: int
    offer: OfferKey
    price_per_hour: Money
    state: State
    since: datetime
    created_at: datetime
    epoch: int
    decision: DecisionId
    reason: str
    units: float
    replicas: int
    concurrency: int
    tensor_parallel: int
    spec_hash: str
    machine_id: MachineId | None = None
    operation_id: OperationId | None = None
    address: str | None = None
    nonce: str | None = None
    host_key: str | None = None
    endpoints: tuple[Endpoint, ...] = ()
    disk_ids: tuple[str, ...] = ()
    stage: str | None = None
    tokens_per_s: float | None = None
    failure: str | None = None
    sent_at: datetime | None = None
    first_look_at: datetime | None = None
    booted_at: datetime | None = None
    verified_at: datetime | None = None
    ready_at: datetime | None = None
    unregistered_at: datetime | None = None
    last_delete_at: datetime | None = None
    deletes: int = 0
    gone_at: datetime | None = None
    cost: Money = ZERO

    @property
    def may_bill(self) -> bool:
        """Whether this node counts against limits."""
        return self.state in MAY_BILL

    @property
    def is_by_hand(self) -> bool:
        """Whether a person rented it: its VM has another name, and no startup script of ours."""
        return self.decision == BY_HAND


@dataclass(frozen=True, slots=True)
class NodeEvent:
    """One durable line of a node's story.

    Attributes:
        node: None for events of the model or of the whole daemon.
        cause: the rule, call or person behind it.
        detail: more text, such as the tail of a log, already redacted.
    """

    at: datetime
    kind: str
    model: ModelName | None
    node: NodeName | None
    state: State | None
    cause: str
    actor: str
    detail: str = ""
    decision: DecisionId | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """One model's nodes that are not closed, with when its last serving node left."""

    nodes: tuple[Node, ...]

    def in_states(self, states: frozenset[State]) -> tuple[Node, ...]:
        """The nodes whose state is one of these, in the order of their names."""
        return tuple(node for node in self.nodes if node.state in states)

    @property
    def ready(self) -> tuple[Node, ...]:
        return self.in_states(SERVING)

    @property
    def coming(self) -> tuple[Node, ...]:
        return self.in_states(COMING)

    @property
    def billing(self) -> tuple[Node, ...]:
        return self.in_states(MAY_BILL)
