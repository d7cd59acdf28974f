"""The one path from a recorded intent to its create call, and the reasons not to make it any more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from autoscaler.domain.node import Node, State
from autoscaler.errors import CloudUnavailable, HeldBack, Rejected
from autoscaler.nodes.recorder import Recorder
from autoscaler.nodes.settling import SettlingTime
from autoscaler.policy import Mode, Policy
from autoscaler.timings import Timings


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends planned nodes, each once."""

    recorder: Recorder
    settling: SettlingTime
    timings: Timings

    async def send(self, node: Node, policy: Policy | None, judged_at: datetime) -> bool:
        """Record that the call may have been made, then make it. False when nothing was sent and it may go on.

        Raises:
            CloudUnavailable, ConfigError: it cannot be sent now; look again.
            StoreUnavailable, LeaseLost: nothing was sent, or what came of it could not be recorded.
        """
        launcher, now = self.recorder.launcher, self.recorder.clock.now()
        unwanted = await self._why_unwanted(node, policy, judged_at)
        if unwanted is not None:
            return await self._cancel(node, unwanted)
        if policy is None:
            raise CloudUnavailable(f"{node.model}: no policy; not launched")
        try:
            request = await launcher.prepare(node, policy)
        except Rejected as exc:
            return await self._cancel(node, str(exc))
        sent = replace(node, state=State.CREATING, since=now, sent_at=now, reason="create sent")
        await self.recorder.advance(node, sent, "the intent is durable")
        self.settling.sent(sent.name)
        try:
            await launcher.create(sent, policy, request)
        except HeldBack as exc:
            # No call was made under its name, so it may still be made.
            self.settling.forget(sent.name)
            why = f"nothing was sent: {exc}"
            await self.recorder.advance(sent, replace(node, since=now, reason=why), why)
            return False
        return True

    async def _why_unwanted(self, node: Node, policy: Policy | None, now: datetime) -> str | None:
        """Why an intent must not be sent any more: it was decided some time ago, perhaps by another daemon."""
        record = await self.recorder.store.record(node.model)
        if record.retired_by is not None:
            return f"not sent: {record.retired_by} retired the model"
        if record.paused_by is not None:
            return f"not sent: {record.paused_by} paused the model"
        if policy is not None and policy.mode is not Mode.ACTIVE:
            return f"not sent: the policy's mode is {policy.mode}"
        waited = now - node.created_at
        # A market moves within minutes, and so does demand: what waited for a firewall rule or a daemon is stale.
        if waited >= self.timings.intent_max_age:
            return f"not sent for {waited.total_seconds():.0f} s: it is decided anew"
        return None

    async def _cancel(self, node: Node, why: str) -> bool:
        now = self.recorder.clock.now()
        cancelled = replace(node, state=State.CANCELLED, since=now, reason=why)
        await self.recorder.advance(node, cancelled, why)
        return True
