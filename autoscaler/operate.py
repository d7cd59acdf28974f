"""What a person may do to a running daemon: pause, retire, drain, promote, scale. Each is an event with its actor,
and each can be asked beforehand what would come of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta

import structlog

from autoscaler.affordable import too_tight
from autoscaler.balance.group import BalancerGroup
from autoscaler.clock import Clock
from autoscaler.config import Config
from autoscaler.decide.profiles import Profiles
from autoscaler.domain.ids import ModelName, NodeName
from autoscaler.domain.node import Node, NodeEvent, State
from autoscaler.domain.override import Override
from autoscaler.errors import BalancerUnavailable, ConfigError
from autoscaler.market import MarketFeed
from autoscaler.nodes.leases import Leases
from autoscaler.nodes.runner import NodeRunner
from autoscaler.policies import PolicyBook
from autoscaler.policy import Mode, Policy
from autoscaler.preview import Consequence, Word, foresee
from autoscaler.quantity import show_duration
from autoscaler.reconcile import Reconciler
from autoscaler.serve.views import BY_HAND, marked
from autoscaler.store.protocol import Promotion, Store
from autoscaler.wakes import Wakes

log = structlog.get_logger(__name__)

_ASKED = timedelta(seconds=2)  # for a balancer to say what is in flight
MOST_NODES, MOST_TIME = 1000, timedelta(days=30)


class Operations:
    """Carries out what operators ask for."""

    def __init__(
        self,
        config: Config,
        book: PolicyBook,
        store: Store,
        leases: Leases,
        runner: NodeRunner,
        reconciler: Reconciler,
        market: MarketFeed,
        balancers: BalancerGroup,
        wakes: Wakes,
        clock: Clock,
    ) -> None:
        self._config = config
        self._book = book
        self._store = store
        self._leases = leases
        self._runner = runner
        self._reconciler = reconciler
        self._market = market
        self._balancers = balancers
        self._wakes = wakes
        self._clock = clock
        self._profiles = Profiles.load()
        self._tight: tuple[str, ...] = ()

    async def pause(self, model: ModelName, actor: str) -> None:
        """Stop launching and releasing for a model; deletes and limits go on."""
        event = self._event(model, "model_paused", actor)
        await self._store.set_paused(model, actor, event.at, event)
        self._said(event)

    async def resume(self, model: ModelName, actor: str) -> None:
        """Let a model go on, also after its launches were stopped or it was retired."""
        event = self._event(model, "model_resumed", actor)
        await self._store.set_resumed(model, event)
        self._said(event)

    async def retire(self, model: ModelName, actor: str) -> None:
        """Drain every node of a model and rent no more for it."""
        event = self._event(model, "model_retired", actor)
        await self._store.set_retired(model, actor, event.at, event)
        self._said(event)

    async def promote(self, model: ModelName, actor: str) -> None:
        """Let a model in shadow rent.

        Raises:
            ConfigError: it is not in shadow, or it could not rent anything as it is written.
        """
        await self._check_promotion(model)
        written = self._book.written(model)
        promotion = Promotion(
            by=actor,
            at=self._clock.now(),
            spec=self._spec(written),
            mode=written.mode.value if written.mode else "",
        )
        event = self._event(model, "model_promoted", actor, f"spec and limits {promotion.spec}")
        await self._store.set_promotion(model, promotion, event)
        await self._mode_changed(model, event)

    async def demote(self, model: ModelName, actor: str) -> None:
        """Put a promoted model back into shadow; what runs goes on.

        Raises:
            ConfigError: nobody has promoted it.
        """
        await self._check_demotion(model)
        event = self._event(model, "model_demoted", actor)
        await self._store.set_promotion(model, None, event)
        await self._mode_changed(model, event)

    async def confirm(self, model: ModelName, spec: object, actor: str) -> None:
        """Put a policy in force that may spend far more than the one before.

        Args:
            spec: the hash of what was shown; another one is not what the person said yes to.

        Raises:
            ConfigError: nothing of it is held, or what is held is another policy by now.
        """
        self._check_held(model)
        growth = self._book.held[model]
        if spec != growth.spec:
            raise ConfigError(
                f"{model}: its policy is not the one that was shown any more: `autoscaler confirm {model}` shows it"
            )
        self._book.confirm(model)
        event = self._event(model, "policy_confirmed", actor, growth.words)
        await self._store.add_event(event)
        self._said(event)
        self._wakes.now("policies")

    async def scale(self, model: ModelName, override: Override | None, actor: str) -> None:
        """Set how many nodes a model has for a while, or take that back (None).

        Raises:
            ConfigError: so many are not allowed.
        """
        await self._check_override(model, override)
        kind = "model_scaled" if override is not None else "override_cleared"
        more = None
        if override is not None:
            beyond = ", beyond nodes.max" if override.beyond_max else ""
            more = f"{override.nodes} nodes until {override.until:%Y-%m-%d %H:%M %Z}{beyond}"
        event = self._event(model, kind, actor, more)
        await self._store.set_override(model, override, event)
        self._said(event)

    async def drain(self, name: NodeName, actor: str) -> Node:
        """Drain one node now.

        Raises:
            ConfigError: there is no such node, or it does not serve.
        """
        node = await self._ready_node(name)
        now = self._clock.now()
        after = replace(node, state=State.DRAINING, since=now, reason=f"{BY_HAND}{actor}")
        event = NodeEvent(
            at=now,
            kind="node_draining",
            model=node.model,
            node=name,
            state=State.DRAINING,
            cause=after.reason,
            actor=actor,
        )
        await self._store.advance(self._leases.current(node.model), node, after, event)
        self._runner.wake(name)
        self._wakes.now(f"model {node.model}")
        return after

    # beforehand

    async def preview(self, model: ModelName, word: Word) -> tuple[Consequence, int | None]:
        """What a word would do and cost, and how many requests are in flight on the nodes that would go.

        Raises:
            ConfigError: the word itself would be refused.
            CloudUnavailable: the offers are not known yet.
        """
        match word.verb:
            case "promote":
                await self._check_promotion(model)
            case "demote":
                await self._check_demotion(model)
            case "confirm":
                self._check_held(model)
                word = replace(word, policy=self._book.waiting(model))
            case "scale":
                await self._check_override(model, word.override)
        leaving: tuple[Node, ...] = ()
        if word.node is not None:
            leaving = (await self._ready_node(word.node),)
        now = self._clock.now()
        inputs = await self._reconciler.observe(
            self._book.policies[model], await self._store.record(model), now
        )
        if word.verb == "resume":
            inputs = replace(inputs, why_no_launch=self._reconciler.why_nothing())
        found = foresee(inputs, word, self._reconciler.consider)
        return found, await self._in_flight(model, found.leaving or leaving)

    async def node_model(self, name: NodeName) -> ModelName:
        """Whose node it is. Raises `ConfigError` as `drain` does."""
        return (await self._ready_node(name)).model

    def tight(self, model: ModelName) -> list[str]:
        """The limits that let nothing be rented for a model, in words; empty while the offers are not known."""
        market = self._market.last
        if market is None:
            return []
        policy = self._book.policies[model]
        return too_tight(policy, self._config.limits, market.offers, self._profiles)

    def note_tight(self) -> None:
        """Log limits that let nothing be rented, when they change; not of a trial, which rents one VM for minutes."""
        if self._book.is_fixed:
            return
        found = tuple(text for model in self._book.policies for text in self.tight(model))
        if found != self._tight:
            for text in found:
                log.warning("limit_too_low", why=text)
        self._tight = found

    async def _in_flight(self, model: ModelName, nodes: tuple[Node, ...]) -> int | None:
        ids = {endpoint.id for node in nodes for endpoint in node.endpoints}
        if not ids:
            return 0
        try:
            heard = await self._balancers.ask(model, _ASKED)
        except BalancerUnavailable:
            return None
        counts = [
            sum(s.in_flight + s.queued for s in report.servers if s.endpoint_id in ids)
            for report in heard.reports
        ]
        return max(counts, default=None)  # one may stand behind the other: a sum would count twice

    async def _ready_node(self, name: NodeName) -> Node:
        node = await self._store.node(name)
        if node is None:
            raise ConfigError(f"{name}: no such node (autoscaler nodes lists them)")
        if node.state is not State.READY:
            raise ConfigError(f"{name} is {node.state}: only a ready node can be drained")
        return node

    async def _check_promotion(self, model: ModelName) -> None:
        await self._check_not_retired(model)
        policy, written = self._book.policies[model], self._book.written(model)
        mistakes = self._book.mistakes()  # as the files are now, not as they were last read
        if mistakes is not None:
            raise ConfigError(
                f"{model} is not promoted: the policy files have mistakes, and the daemon runs on what it read "
                f"before them. Mend this, then promote:\n{mistakes}"
            )
        if model in self._book.vanished:
            raise ConfigError(
                f"{model} is not promoted: its policy file is gone. Put it back, then promote"
            )
        if written.mode is Mode.PAUSED:
            raise ConfigError(
                f'{model} is not promoted: its policy says mode = "paused". Remove that line, then promote'
            )
        if policy.mode is Mode.ACTIVE:
            why = (
                'its policy says mode = "active"'
                if written.mode is Mode.ACTIVE
                else "it rents already"
            )
            raise ConfigError(f"{model} is not in shadow: {why}")
        if self._market.last is None:
            raise ConfigError(
                f"{model} is not promoted: the offers were not read yet; try again in a moment"
            )
        problems = self.tight(model)
        if not self._book.is_emulated:
            problems += self._config.unfit_for_a_real_cloud()
        if problems:
            raise ConfigError(
                f"{model} is not promoted, since it could rent nothing:\n" + "\n".join(problems)
            )

    def _check_held(self, model: ModelName) -> None:
        if model not in self._book.held:
            raise ConfigError(f"{model}: no policy of it waits for a word")

    async def _check_demotion(self, model: ModelName) -> None:
        if (await self._store.record(model)).promotion is None:
            raise ConfigError(
                f'{model} was not promoted: its mode is its policy\'s; write mode = "shadow" there'
            )

    async def _check_not_retired(self, model: ModelName) -> None:
        record = await self._store.record(model)
        if record.retired_by is not None:
            raise ConfigError(
                f"{model} was retired by {record.retired_by}: `autoscaler resume {model}` first"
            )

    async def _check_override(self, model: ModelName, override: Override | None) -> None:
        if override is None:
            return
        await self._check_not_retired(model)
        most = self._book.policies[model].nodes.max
        if not 0 <= override.nodes <= MOST_NODES:
            raise ConfigError(f"--nodes: found {override.nodes}, allowed: 0 to {MOST_NODES}")
        if override.nodes > most and not override.beyond_max:
            raise ConfigError(
                f"--nodes: found {override.nodes}, nodes.max of {model} is {most}: say --beyond-max to go beyond "
                "it for that time (limits of money and of all nodes hold all the same)"
            )
        length = override.until - override.at
        if not timedelta(0) < length <= MOST_TIME:
            raise ConfigError(
                f"--for: found {show_duration(length)}, allowed: more than 0, up to {show_duration(MOST_TIME)}"
            )

    def _spec(self, policy: Policy) -> str:
        text = policy.model_dump_json() + self._config.limits.model_dump_json()
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    async def _mode_changed(self, model: ModelName, event: NodeEvent) -> None:
        self._book.promote(await self._store.promotions())
        self._said(event)

    def _event(self, model: ModelName, kind: str, actor: str, more: str | None = None) -> NodeEvent:
        event = marked(model, kind, actor, self._clock.now())
        return replace(event, cause=f"{event.cause}: {more}") if more else event

    def _said(self, event: NodeEvent) -> None:
        log.info(event.kind, model=event.model, actor=event.actor)
        self._wakes.now(f"model {event.model}")
