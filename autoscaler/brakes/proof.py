"""What this project has proven so far, at the daemon's start and while it runs: until a delete is, one VM at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from autoscaler.brakes.facts import Belief, facts_key, leaned_on, read_facts
from autoscaler.domain.node import Node, State
from autoscaler.store.protocol import Store

log = structlog.get_logger(__name__)

_LOOKED_BACK = timedelta(days=30)


@dataclass(slots=True)
class Proof:
    """Keeps it.

    Attributes:
        is_wanted: whether this cloud has to prove anything: a real one has, an emulator has not unless told to.
        unneeded: names of facts that nothing leans on, as this daemon is set up.
        delete_proven: a VM of this project was once deleted and proven absent.
        unproven: what the daemon leans on and no trial has confirmed.
    """

    is_wanted: Callable[[], bool]
    unneeded: frozenset[str] = frozenset()
    delete_proven: bool = False
    unproven: tuple[Belief, ...] = ()

    async def read(self, store: Store, now: datetime) -> None:
        """Read what was proven before, and name in the log what was not.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        if not self.is_wanted():
            return
        project = await store.meta("project") or ""
        key = f"delete_proven:{project}"
        rows = await store.nodes(closed_since=now - _LOOKED_BACK)
        if await store.meta(key) is not None or any(_was_deleted(node) for node in rows):
            self.delete_proven = True
            await store.set_meta(key, now.isoformat())  # rows are pruned one day
        facts = leaned_on(read_facts(await store.meta(facts_key(project))))
        self.unproven = tuple(belief for belief in facts if belief.name not in self.unneeded)
        for belief in self.unproven:
            log.warning(
                "cloud_fact_unproven", fact=belief.name, says=belief.says, leans=belief.leans,
                do="autoscaler trial POLICY",
            )  # fmt: skip
        if not self.delete_proven:
            log.warning("delete_unproven", nodes=1, do="autoscaler trial POLICY")

    def node_changed(self, node: Node) -> None:
        """Hear of a node's new state."""
        self.delete_proven = self.delete_proven or _was_deleted(node)

    def most_nodes(self) -> int | None:
        """How many VMs may exist at a time because of what is unproven; None when it does not matter."""
        return 1 if self.is_wanted() and not self.delete_proven else None


def _was_deleted(node: Node) -> bool:
    """Whether it existed, was asked to go, and is proven absent; one that vanished by itself proves nothing."""
    asked = node.deletes > 0 and not (node.failure or "").startswith("vanished")
    return node.state is State.GONE and asked and node.booted_at is not None
