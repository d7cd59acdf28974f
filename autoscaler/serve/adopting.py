"""The verb `adopt`, over the daemon's Unix socket: what it would take over, asked beforehand, and the deed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiohttp import web

from autoscaler.domain.money import total
from autoscaler.domain.node import Node
from autoscaler.errors import ConfigError
from autoscaler.nodes.adopt import Adopter, Found
from autoscaler.nodes.ssh import fingerprint
from autoscaler.policies import find_model
from autoscaler.policy import Mode
from autoscaler.quantity import show_duration
from autoscaler.serve.verbs import handler
from autoscaler.serve.views import Json, usd

if TYPE_CHECKING:
    from autoscaler.daemon import Daemon


class Adoptions:
    """One daemon's `adopt`. One at a time."""

    def __init__(self, daemon: Daemon, adopter: Adopter) -> None:
        self._daemon = daemon
        self._adopter = adopter
        self._busy = asyncio.Lock()
        self._running: asyncio.Task[object] | None = None

    def add_to(self, app: web.Application) -> None:
        """Add the verb and what comes before it. One that is under way holds up no stop of the daemon."""
        app.on_shutdown.append(self._stop)
        app.router.add_post("/api/v1/adopt", handler(self._adopt))
        app.router.add_post("/api/v1/adopt/preview", handler(self._preview))

    async def _preview(self, body: Json, actor: str) -> Json:
        """What would be taken over. It changes nothing, here or on a machine."""
        vm, model = _text(body, "vm"), _text(body, "model")
        if model is not None:
            return await self._preview_by_hand(vm, model)
        found = await self._adopter.survey(vm)
        rows = [one.node for one in found if one.node is not None]
        return {
            "adoptable": [row.name for row in rows],
            "refused": _refused(found),
            "usd_per_hour": usd(total([row.price_per_hour for row in rows])),
            "text": [*map(_line, found), *self._consequence(found, rows)],
        }

    async def _preview_by_hand(self, vm: str | None, model: str) -> Json:
        daemon = self._daemon
        name = find_model(daemon.book.policies, model)
        if vm is None:
            raise ConfigError(
                "--model goes with one VM: `autoscaler adopt VM --model MODEL`; without both, all are taken over that "
                "are proven"
            )
        machine, shown, lets_in = await self._adopter.meet(vm, name)
        if not lets_in:
            line, user = self._adopter.introductions.public_line, daemon.config.ssh.user
            raise ConfigError(
                f"{vm}: does not let us in as {user}: append this line to ~{user}/.ssh/authorized_keys there, then "
                f"adopt it:\n{line}"
            )
        found = await self._adopter.vouched(machine, name, shown)
        assert found.node is not None
        row = found.node
        return {
            "adoptable": [row.name],
            "refused": [],
            "usd_per_hour": usd(row.price_per_hour),
            "host_key": shown,
            "fingerprint": fingerprint(shown),
            "text": [
                f"{machine.name} ({row.offer}, {row.price_per_hour}/h) joins {name} as node {row.name}.",
                f"It shows host key {fingerprint(shown)}. On the machine itself, ssh-keygen -lf "
                "/etc/ssh/ssh_host_ed25519_key.pub says the true one.",
                "It is verified first: GPUs as its type has, health, the served name, one answered request.",
                "From then on it is the autoscaler's: counted against every limit, given requests, and DELETED with "
                f"its system disk once {name} no longer wants it or it fails.",
            ],
        }

    def _consequence(self, found: Sequence[Found], rows: Sequence[Node]) -> list[str]:
        lines = []
        if not found:
            lines.append(
                "Every machine with our mark has a row already: there is nothing to adopt."
            )
        if rows:
            price = total([row.price_per_hour for row in rows])
            lines.append(
                f"{len(rows)} to take over, {price}/h in all, which they cost already. Each is verified (one request "
                "to each server), then recorded and registered with the balancers. Nothing is deleted or restarted."
            )
        if len(rows) < len(found):
            grace = show_duration(self._daemon.config.timings.orphan_grace)
            lines.append(
                f"{len(found) - len(rows)} cannot be taken over. What stays unknown is held while a balancer sends to "
                f"it, and else deleted {grace} after this adoption."
            )
        foreign = sorted({m.name for m in self._daemon.sweeper.findings.foreign})
        if foreign:
            lines.append(
                f"{len(foreign)} with our prefix carry another owner mark ({foreign[0]}, …): is cloud.owner the one of "
                "the old config?"
            )
        return lines

    async def _adopt(self, body: Json, actor: str) -> Json:
        vm, model = _text(body, "vm"), _text(body, "model")
        if self._busy.locked():
            raise ConfigError("another adoption is under way: wait for its end")
        async with self._busy:
            self._running = asyncio.current_task()
            try:
                if model is None:
                    found = await self._adopter.survey(vm)
                else:
                    found = (await self._vouched(vm, model, _text(body, "host_key")),)
                done = await self._adopter.take(found, actor)
            finally:
                self._running = None
        rows = [one.node for one in done if one.node is not None]
        for name in sorted({row.model for row in rows}):
            self._daemon.wakes.now(f"model {name}")
        self._daemon.wakes.now("sweep")
        return {
            "adopted": [row.name for row in rows],
            "refused": _refused(done),
            "notes": self._notes(rows),
            "by": actor,
        }

    async def _stop(self, app: web.Application) -> None:
        if self._running is not None:
            self._running.cancel()

    async def _vouched(self, vm: str | None, model: str, host_key: str | None) -> Found:
        name = find_model(self._daemon.book.policies, model)
        if vm is None or host_key is None:
            raise ConfigError("vm and host_key: both are needed with model")
        machine, _, _ = await self._adopter.meet(vm, name)
        return await self._adopter.vouched(machine, name, host_key)

    def _notes(self, rows: Sequence[Node]) -> list[str]:
        policies = self._daemon.book.policies
        return [
            f"{name} is in shadow here: nothing is rented or given back for it until `autoscaler promote {name}`"
            for name in sorted({row.model for row in rows})
            if policies[name].mode is Mode.SHADOW
        ]


def _line(found: Found) -> str:
    row = found.node
    if row is None:
        return f"{found.machine.name}: not taken over: {found.why}"
    return (
        f"{row.name}: {row.model} on {row.offer}, {row.price_per_hour}/h: proven by our authority"
    )


def _refused(found: Sequence[Found]) -> list[Json]:
    return [
        {"machine": one.machine.name, "id": one.machine.id, "why": one.why}
        for one in found
        if one.node is None
    ]


def _text(body: Json, key: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{key}: found {value!r}, allowed: text")
    return value or None
