"""What a node is, said by us and signed: enough to write its row anew when the store is lost.

It is the text of the certificate that our authority gives a node's host key (`host_authority`). Nothing in it is
secret.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, ValidationError

from autoscaler.domain.node import Node
from autoscaler.domain.offer import OfferKey

_TEXT_LIMIT = 4096


class Manifest(BaseModel):
    """One node's facts, as the store knew them when its host key was pinned.

    Attributes:
        mark: `<prefix>-<owner>`: whose node it is.
        name: the node's; the VM's too, unless a person rented it.
        decision: `BY_HAND` for a VM that a person rented.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    mark: str
    name: str
    machine_id: str
    model: str
    type: str
    location: str
    usd_per_hour: Decimal
    units: float
    replicas: int
    concurrency: int
    tensor_parallel: int
    spec_hash: str
    decision: str
    sent_at: datetime

    @property
    def offer(self) -> OfferKey:
        return OfferKey(self.type, self.location)

    @property
    def text(self) -> str:
        """As it is signed."""
        return self.model_dump_json()


def manifest_of(node: Node, mark: str) -> Manifest:
    """What there is to say of a pinned node."""
    return Manifest(
        mark=mark,
        name=node.name,
        machine_id=node.machine_id or "",
        model=node.model,
        type=node.offer.type,
        location=node.offer.location,
        usd_per_hour=node.price_per_hour.usd,
        units=node.units,
        replicas=node.replicas,
        concurrency=node.concurrency,
        tensor_parallel=node.tensor_parallel,
        spec_hash=node.spec_hash,
        decision=node.decision,
        sent_at=node.sent_at or node.created_at,
    )


def parse_manifest(text: str) -> Manifest:
    """Read it back.

    Raises:
        ValueError: it is of another form.
    """
    if len(text) > _TEXT_LIMIT:
        raise ValueError("too long")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as exc:
        raise ValueError(f"{exc.error_count()} mistakes in it") from exc
