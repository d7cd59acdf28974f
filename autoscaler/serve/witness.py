"""What a living daemon accounts for, so that `autoscaler audit` on any host can hold the cloud's list against it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from autoscaler.domain.node import CLOSED, Node
from autoscaler.serve.views import Json

if TYPE_CHECKING:
    from autoscaler.daemon import Daemon

_CLOSED_FOR = timedelta(
    days=7
)  # how long a closed row's machine is still told: its disk may be left


async def witness(daemon: Daemon) -> Json:
    """Whose daemon this is, how fresh its sweep is, and every machine that its store knows."""
    config, now = daemon.config, daemon.clock.now()
    swept = daemon.sweeper.swept_at
    rows = await daemon.store.nodes(closed_since=now - _CLOSED_FOR)
    # with firewall.manage = false the operator makes the rule of this name: it is accounted for all the same
    rules = [f"{config.cloud.prefix}-{config.cloud.owner}-serve"]
    return {
        "schema": 1,
        "owner": config.cloud.owner,
        "prefix": config.cloud.prefix,
        "project": await daemon.store.meta("project") if daemon.health.project_checked else None,
        "swept_age_s": (now - swept).total_seconds() if swept is not None else None,
        "sweep_s": config.timings.sweep.total_seconds(),
        "held": daemon.sweeper.findings.held,
        "nodes": [_row(row) for row in rows if row.state not in CLOSED],
        "closed": [_row(row) for row in rows if row.state in CLOSED],
        "orphans": [
            {
                "name": orphan.name,
                "machine_id": orphan.machine_id,
                "first_seen": orphan.first_seen.isoformat(),
            }
            for orphan in daemon.sweeper.findings.orphans
        ],
        "firewall_rules": rules,
    }


def _row(node: Node) -> Json:
    return {"name": node.name, "machine_id": node.machine_id, "state": node.state.value}
