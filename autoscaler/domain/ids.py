"""Names and identifiers, and how a VM's name carries what survives the loss of our store.

A VM is named `<prefix>-<owner>-<id>-<attempt>-<model>`. What is unique stands before what may be cut off, since the
cloud has no tags: the name alone says whose machine it is, which intent it serves and at which attempt.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import NewType

NodeName = NewType("NodeName", str)  # also the VM's name: unique for ever, used in one create call
MachineId = NewType("MachineId", str)  # the cloud's id of a VM
OperationId = NewType("OperationId", str)
ModelName = NewType("ModelName", str)  # what clients put into `model`
IntentId = NewType("IntentId", str)  # one wanted node; its attempts have names of their own
DecisionId = NewType("DecisionId", str)

_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"  # base32: 5 bits a letter
_ID_LENGTH = 13  # 65 random bits, no counter: a restored backup would repeat one
_NAME_LIMIT = 63  # a DNS label
_NAME = re.compile(
    r"(?P<prefix>[a-z][a-z0-9]{0,7})-(?P<owner>[a-z0-9]{8})-(?P<id>[a-z2-7]{13})"
    r"-(?P<attempt>[1-9][0-9]{0,5})(?:-(?P<model>[a-z0-9-]*))?"
)


@dataclass(frozen=True, slots=True)
class NameParts:
    """What a VM's name says: our prefix, the owner mark, the intent and the attempt."""

    prefix: str
    owner: str
    intent: IntentId
    attempt: int
    model_slug: str


def new_intent_id() -> IntentId:
    """Draw a fresh intent id of 65 random bits."""
    return IntentId("".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH)))


def new_decision_id() -> DecisionId:
    """Draw a fresh decision id."""
    return DecisionId(secrets.token_hex(6))


def slug(model: str) -> str:
    """Reduce a model's name to lower-case letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")


def node_name(
    prefix: str, owner: str, intent: IntentId, attempt: int, model: ModelName
) -> NodeName:
    """Build the name of one attempt, at most 63 characters; only the model's part is ever cut.

    Raises:
        ValueError: prefix, owner or attempt do not fit the form.
    """
    head = f"{prefix}-{owner}-{intent}-{attempt}"
    name = f"{head}-{slug(model)}"[:_NAME_LIMIT].rstrip("-")
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"not a node name: {name!r} (prefix {prefix!r}, owner {owner!r})")
    return NodeName(name)


def parse_name(name: str) -> NameParts | None:
    """Read a VM's name, or None when it is not of our form."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return NameParts(
        prefix=match["prefix"],
        owner=match["owner"],
        intent=IntentId(match["id"]),
        attempt=int(match["attempt"]),
        model_slug=match["model"] or "",
    )
