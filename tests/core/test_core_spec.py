"""What makes a node one of an older policy: declared fields that it cannot change, and nothing else."""

from __future__ import annotations

import pytest

from autoscaler.policy import Policy, Server
from tests.core.desk import policy


class NewerServer(Server):
    """A later version's, which knows a field more."""

    speculation: bool = False


class NewerPolicy(Policy):
    server: NewerServer = NewerServer()


def after_an_upgrade(**server: object) -> NewerPolicy:
    """The same file, and perhaps more, read by the later version."""
    told = policy().model_dump(mode="json", by_alias=True, exclude_unset=True)
    return NewerPolicy.model_validate(told | {"server": told.get("server", {}) | server})


def test_an_upgrade_makes_no_node_drift_until_somebody_declares_what_is_new() -> None:
    assert after_an_upgrade().spec_hash() == policy().spec_hash()
    assert after_an_upgrade(speculation=True).spec_hash() != policy().spec_hash()


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": {"min": 1, "max": 3}},
        {"scaling": {"stabilization": "7m"}},
        {"drain": {"deadline": "9m"}},
    ],
)
def test_what_a_running_node_can_follow_makes_no_drift(changes: dict[str, object]) -> None:
    assert policy(**changes).spec_hash() == policy().spec_hash()
