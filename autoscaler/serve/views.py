"""What people and programs are shown, as plain JSON values made from the store alone.

The daemon serves these, and the commands make them themselves when no daemon runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from autoscaler.clock import Clock
from autoscaler.config import LimitSettings
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.money import Money
from autoscaler.domain.node import Node, NodeEvent, State
from autoscaler.domain.override import Override
from autoscaler.policies import mode_in_force
from autoscaler.policy import Policy
from autoscaler.serve.glance import forecast, resting_state
from autoscaler.shadow import Shadow
from autoscaler.store.protocol import Ledger, ModelRecord, Store

Json = dict[str, object]
_LATELY = timedelta(hours=24)
_TWO_DAYS = timedelta(hours=48)
_LONG = timedelta(hours=24)  # after so long a person's word may have been forgotten
BY_HAND = "drained by "  # how the reason of a node begins that a person drains


class Views:
    """Makes views."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def status(self, policies: Mapping[ModelName, Policy], *, emulated: bool = False) -> Json:
        """Money, and one line per model."""
        now = self._clock.now()
        ledger = await self._store.ledger(now)
        names = sorted({*policies, *(node.model for node in ledger.nodes)})
        models = [await self._model(name, policies.get(name), ledger, emulated) for name in names]
        recent = await self._store.nodes(closed_since=now - _TWO_DAYS)
        return {
            "at": now.isoformat(),
            "usd_per_hour": usd(_hourly(ledger.nodes)),
            "spent_today_usd": usd(ledger.spent_today()),
            "spent_month_usd": usd(ledger.spent_month()),
            **forecast(ledger, recent),
            "models": models,
            "forgotten": forgotten(models, ledger),
        }

    async def _model(
        self, name: ModelName, policy: Policy | None, ledger: Ledger, emulated: bool
    ) -> Json:
        record = await self._store.record(name)
        last = await self._store.last_decision(name)
        decision = json.loads(last[0]) if last is not None else {}
        ours = [node for node in ledger.nodes if node.model == name]
        mode = _mode(policy, record, emulated=emulated)
        return {
            "model": name,
            "mode": mode,
            "state": resting_state(mode, ours),
            "promoted_by": record.promotion.by if record.promotion else None,
            "promoted_at": _at(record.promotion.at) if record.promotion else None,
            "shadow": stored_shadow(record, ledger.at),
            "override": override_view(record.override, ledger.at),
            "paused_by": record.paused_by,
            "paused_at": _at(record.paused_at),
            "nodes": {s.value: n for s in State if (n := sum(1 for x in ours if x.state is s))},
            "demand": decision.get("demand"),
            "want": decision.get("want"),
            "ready": decision.get("ready"),
            "verdict": decision.get("verdict"),
            "reason": decision.get("reason"),
            "decided_at": decision.get("at"),
            "usd_per_hour": usd(_hourly(ours)),
            "spent_today_usd": usd(ledger.spent_today(name)),
            "spent_month_usd": usd(ledger.spent_month(name)),
            "min": policy.nodes.min if policy else None,
            "max": policy.nodes.max if policy else None,
        }

    async def model(self, name: ModelName, policy: Policy) -> Json:
        """One model's line; `policy` with its mode in force."""
        return await self._model(name, policy, await self._store.ledger(self._clock.now()), False)

    async def nodes(self, *, closed: bool) -> list[Json]:
        """Every open node, and those of the last day when `closed`."""
        now = self._clock.now()
        since = now - _LATELY if closed else None
        return [node_view(node, now) for node in await self._store.nodes(closed_since=since)]

    async def events(
        self, node: NodeName | None, model: ModelName | None, limit: int
    ) -> list[Json]:
        """The story of a node, of a model, or of everything."""
        events = await self._store.events(node=node, model=model, limit=limit)
        return [_event_view(event) for event in events]

    async def last_decision(self, model: ModelName) -> Json | None:
        """The newest decision with its plan, as recorded."""
        found = await self._store.last_decision(model)
        if found is None:
            return None
        return {"decision": json.loads(found[0]), "plan": json.loads(found[1])}

    async def targets(self, metrics_paths: Mapping[ModelName, str]) -> list[Json]:
        """Prometheus `http_sd` target groups: each ready node's model servers."""
        return [
            {
                "targets": [e.url.removeprefix("http://").removeprefix("https://")],
                "labels": {
                    "model": node.model,
                    "offer": node.offer.type,
                    "location": node.offer.location,
                    "__scheme__": urlsplit(e.url).scheme,
                    "__metrics_path__": metrics_paths.get(node.model, "/metrics"),
                },
            }
            for node in await self._store.nodes()
            if node.state in (State.READY, State.DRAINING)
            for e in node.endpoints
        ]


def forgotten(models: Sequence[Json], ledger: Ledger) -> list[str]:
    """Pauses and manual drains that have held for a day: does anybody still want them?"""
    said = []
    for model in models:
        paused_at = model["paused_at"]
        since = datetime.fromisoformat(paused_at) if isinstance(paused_at, str) else ledger.at
        if ledger.at - since >= _LONG:
            said.append(
                f"{model['model']}: paused by {model['paused_by']} for {_hours(ledger.at - since)}: nothing is "
                f"launched or given back until `autoscaler resume {model['model']}`"
            )
    said += [
        f"{node.name}: {node.reason} {_hours(ledger.at - node.since)} ago, and it still drains and bills: "
        "`autoscaler nodes` says what is in flight"
        for node in ledger.nodes
        if node.state is State.DRAINING
        and node.reason.startswith(BY_HAND)
        and ledger.at - node.since >= _LONG
    ]
    return said


def _hours(length: timedelta) -> str:
    return f"{length // timedelta(hours=1)} h"


def node_view(node: Node, now: datetime) -> Json:
    """One node for people: no nonce, no key."""
    end = node.gone_at or now
    cost = node.price_per_hour.for_time(end - node.sent_at) if node.sent_at else node.cost
    return {
        "name": node.name,
        "model": node.model,
        "state": node.state.value,
        "since": node.since.isoformat(),
        "age_s": round((now - node.created_at).total_seconds(), 1),
        "type": node.offer.type,
        "location": node.offer.location,
        "usd_per_hour": usd(node.price_per_hour),
        "cost_usd": usd(cost),
        "address": node.address,
        "machine_id": node.machine_id,
        "stage": node.stage,
        "reason": node.reason,
        "failure": node.failure,
        "units": node.units,
        "replicas": node.replicas,
        "endpoints": [endpoint.url for endpoint in node.endpoints],
        "tokens_per_s": node.tokens_per_s,
        "created_at": node.created_at.isoformat(),
        "verified_at": _at(node.verified_at),
        "ready_at": _at(node.ready_at),
        "unregistered_at": _at(node.unregistered_at),
        "gone_at": _at(node.gone_at),
        "decision": node.decision,
    }


def marked(model: ModelName, kind: str, actor: str, now: datetime) -> NodeEvent:
    """The event of a person's word on a model."""
    return NodeEvent(
        at=now,
        kind=kind,
        model=model,
        node=None,
        state=None,
        cause=f"asked for by {actor}",
        actor=actor,
    )


def _event_view(event: NodeEvent) -> Json:
    return {
        "at": event.at.isoformat(),
        "kind": event.kind,
        "model": event.model,
        "node": event.node,
        "state": event.state.value if event.state else None,
        "cause": event.cause,
        "actor": event.actor,
        "detail": event.detail,
        "decision": event.decision,
    }


def shadow_view(shadow: Shadow, now: datetime) -> Json:
    """What a model in shadow would have done, and cost."""
    return {
        "since": shadow.since.isoformat(),
        "decisions": shadow.decisions,
        "launches": shadow.launches,
        "releases": shadow.releases,
        "peak": shadow.peak,
        "nodes": len(shadow.nodes),
        "usd_per_hour": usd(_hourly(shadow.nodes)),
        "cost_usd": usd(shadow.cost(now)),
    }


def promise_lines(
    shadow: Shadow | None, policy: Policy, limits: LimitSettings, now: datetime
) -> list[str]:
    """What a model did in shadow, and the limits under which it would rent."""
    said = ["in shadow, and no pass has ended yet"]
    if shadow is not None:
        said = [
            f"in shadow since {shadow.since:%Y-%m-%d %H:%M %Z}; decisions: {shadow.decisions}; on paper: "
            f"launches {shadow.launches}, releases {shadow.releases}, most nodes {shadow.peak}",
            f"it would have cost {shadow.cost(now)} so far, and {_hourly(shadow.nodes)}/h now "
            f"(nodes: {len(shadow.nodes)})",
        ]
    own = [f"nodes {policy.nodes.min} to {policy.nodes.max}"]
    own += [
        f"{most}/{period}"
        for most, period in (
            (policy.hourly_limit, "h"),
            (policy.limits.usd_per_day, "day"),
            (policy.limits.usd_per_month, "month"),
        )
        if most is not None
    ]
    every = [
        f"{most}/{period}"
        for most, period in (
            (limits.usd_per_hour, "h"),
            (limits.usd_per_day, "day"),
            (limits.usd_per_month, "month"),
        )
        if most is not None
    ]
    every.append(f"{limits.nodes} nodes")
    said.append(f"its limits: {', '.join(own)}; of all models: {', '.join(every)}")
    return said


def stored_shadow(record: ModelRecord, now: datetime) -> Json | None:
    """The shadow as the store has it, None for a model that is not in shadow."""
    try:
        return shadow_view(Shadow.from_json(record.shadow), now) if record.shadow else None
    except ValueError:
        return None


def override_view(override: Override | None, now: datetime) -> Json | None:
    """A person's override, None when none holds."""
    if override is None or not override.holds(now):
        return None
    return {
        "nodes": override.nodes,
        "until": override.until.isoformat(),
        "by": override.by,
        "at": override.at.isoformat(),
        "beyond_max": override.beyond_max,
    }


def _mode(policy: Policy | None, record: ModelRecord, *, emulated: bool) -> str:
    if record.retired_by is not None:
        return "retired"
    if record.paused_by is not None:
        return "paused"
    if policy is None:
        return "no policy"
    return mode_in_force(policy, record.promotion, emulated=emulated).value


def _hourly(nodes: tuple[Node, ...] | list[Node]) -> Money:
    return sum((node.price_per_hour for node in nodes if node.may_bill), Money.of(0))


def usd(amount: Money) -> str:
    return f"{amount.usd:.4f}"


def _at(when: datetime | None) -> str | None:
    return when.isoformat() if when is not None else None
