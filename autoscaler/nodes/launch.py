"""Launch: the one create call of a node, with the proof that it may be made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Protocol

import structlog

from autoscaler.clock import Clock
from autoscaler.cloud.protocol import Cloud, CreateRequest
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Node
from autoscaler.domain.offer import BackOff, Market, Offer, OfferKey
from autoscaler.errors import (
    AutoscalerError,
    CloudUnavailable,
    HeldBack,
    OutcomeUnknown,
    OutOfStock,
    PaymentRequired,
    QuotaExceeded,
    Rejected,
    SchemaError,
)
from autoscaler.nodes.leases import Leases
from autoscaler.policy import Policy
from autoscaler.store.protocol import Store

log = structlog.get_logger(__name__)

_CALL_SLACK = timedelta(seconds=1)  # of a lease that must outlast the create call


@dataclass(frozen=True, slots=True)
class Scripts:
    """The startup and shutdown script of one node."""

    startup: str
    shutdown: str


class ScriptRenderer(Protocol):
    """Renders a node's scripts. No secret may be in them: the cloud echoes them to anyone with the key."""

    def __call__(self, node: Node, policy: Policy, offer: Offer) -> Scripts: ...


class Gatekeeper(Protocol):
    """Makes sure that a node could be reached once it is up, before money is spent on it."""

    async def ready(self) -> None:
        """Raises a failure of the cloud while the firewall rule is not in place."""


class Launcher:
    """Makes create calls and remembers which offers failed."""

    def __init__(
        self,
        store: Store,
        cloud: Cloud,
        clock: Clock,
        leases: Leases,
        market: Callable[[], Market | None],
        render: ScriptRenderer,
        gatekeeper: Gatekeeper,
        public_key: str,
        forbidden: Callable[[], str | None],
        on_payment: Callable[[str], None] = lambda why: None,
        create_timeout: timedelta = timedelta(seconds=12),
    ) -> None:
        """`on_payment` is told when the cloud refuses a create for want of payment: every launch would be refused.

        `create_timeout` is how long the cloud's create call may take: the lease must outlast it.
        """
        self._store = store
        self._cloud = cloud
        self._clock = clock
        self._leases = leases
        self._market = market
        self._render = render
        self._gatekeeper = gatekeeper
        self._public_key = public_key
        self._forbidden = forbidden
        self._on_payment = on_payment
        self.create_timeout = create_timeout

    async def prepare(self, node: Node, policy: Policy) -> CreateRequest:
        """The create call to make, whole, once nothing stands in its way: afterwards only the call itself can fail.

        Raises:
            CloudUnavailable: launches are forbidden now, or the market or the firewall rule is not known yet; look
                again.
            Rejected: this offer can never be rented.
            ConfigError: the policy's startup script cannot be made.
        """
        forbidden = self._forbidden()
        if forbidden is not None:
            raise CloudUnavailable(f"not launched: {forbidden}")
        market = self._market()
        if market is None:
            raise CloudUnavailable("the market was not read yet")
        offer = market.offer(node.offer)
        if offer is None:
            raise Rejected(f"create: the cloud no longer offers {node.offer}")
        await self._gatekeeper.ready()
        scripts = self._render(node, policy, offer)
        return CreateRequest(
            name=node.name,
            offer=offer,
            ssh_public_key=self._public_key,
            startup_script=scripts.startup,
            shutdown_script=scripts.shutdown,
        )

    async def create(self, node: Node, policy: Policy, request: CreateRequest) -> Node:
        """Make the node's one create call and record what came of it; `node` is already `creating`.

        Returns the node as recorded. Failures of the cloud are not raised: each is a fact about this node.

        Raises:
            HeldBack: our own rate limit had no place for it and nothing was sent, so the name is not used up.
        """
        await self._leases.fresh(node.model, (self.create_timeout + _CALL_SLACK).total_seconds())
        try:
            created = await self._cloud.create(request)
        except (OutcomeUnknown, SchemaError) as exc:
            # Sent and not understood: the machine may exist. It is looked for by its name, never asked for again.
            log.warning("create_answer_lost", node=node.name, why=str(exc))
            after = replace(node, first_look_at=self._clock.now())
        except HeldBack:
            raise  # no fault of the offer's: it was not asked
        except (OutOfStock, Rejected, CloudUnavailable) as exc:
            log.warning("create_refused", node=node.name, offer=str(node.offer), why=str(exc))
            await self.note_failure(node, policy, exc)
            after = replace(node, failure=f"{failure_kind(exc)}: {exc}")
        else:
            after = replace(node, operation_id=created.operation_id, machine_id=created.machine_id)
        await self._store.update(self._leases.current(node.model), node, after)
        return after

    async def note_failure(self, node: Node, policy: Policy, cause: AutoscalerError | str) -> None:
        """Leave the node's offer alone for a while: after a quota its GPU family everywhere, unpaid every offer."""
        now = self._clock.now()
        keys = [node.offer]
        quota = isinstance(cause, QuotaExceeded) or str(cause).startswith("quota:")
        market = self._market()
        if quota and market is not None:
            offer = market.offer(node.offer)
            family = offer.gpu if offer is not None else None
            keys = [o.key for o in market.offers if o.gpu == family] or keys
        if isinstance(cause, PaymentRequired) and market is not None:
            log.error("account_unpaid", why=str(cause))
            self._on_payment(str(cause))
            keys = [offer.key for offer in market.offers] or keys
        known = {backoff.key: backoff for backoff in await self._store.backoffs()}
        for key in keys:
            await self._store.set_backoff(back_off(key, known.get(key), str(cause), policy, now))


def back_off(
    key: OfferKey, before: BackOff | None, reason: str, policy: Policy, now: datetime
) -> BackOff:
    """The next back-off of an offer: doubled with each failure in a row, up to the policy's maximum.

    A failure long after the last back-off ended (twice its maximum) starts the count anew.
    """
    longest = policy.retries.offer_backoff_max
    stale = before is None or now - before.until > 2 * longest
    failures = 1 if stale or before is None else before.failures + 1
    length = min(policy.retries.offer_backoff * 2 ** min(failures - 1, 20), longest)
    return BackOff(key=key, until=now + length, reason=reason, failures=failures)


def failure_kind(exc: AutoscalerError) -> str:
    """The first word of a node's failure: what sort of thing it was."""
    match exc:
        case QuotaExceeded():
            return "quota"
        case OutOfStock():
            return "stock"
        case PaymentRequired():
            return "payment"
        case CloudUnavailable():
            return "cloud"
        case _:
            return "create"


# How failures of the market differ from failures of the policy: those say nothing about the next launch elsewhere.
MARKET_FAILURES = frozenset({"stock", "quota", "payment", "cloud"})
_NO_LAUNCH_FAILED = MARKET_FAILURES | {"sweep"}  # what the sweep condemned was no launch of a row's


def launch_stop(nodes: tuple[Node, ...], policy: Policy, since: datetime | None) -> str | None:
    """Why this policy's launches must stop, or None: its last launches all failed alike before they were ready.

    Args:
        nodes: the model's nodes, closed ones of the last day included, oldest first.
        since: when a person last resumed the model; failures before do not count.
    """
    limit = policy.retries.same_failure_limit
    failed = failed_alike(nodes, policy, since)
    if len(failed) < limit:
        return None
    failure = (failed[0].failure or "").partition("\n")[0]  # the log's tail is in `events`
    return (
        f"{limit} launches in a row failed alike ({failure}): mend the policy, or run "
        f"`autoscaler resume {policy.model}` to try again"
    )


def failed_alike(nodes: Sequence[Node], policy: Policy, since: datetime | None) -> tuple[Node, ...]:
    """The policy's last launches as far as all of them failed alike, newest first. Arguments as of `launch_stop`."""
    spec = policy.spec_hash()
    mine = [
        node
        for node in nodes
        if node.spec_hash == spec and (since is None or node.created_at > since)
    ]
    failed = _failed_last(mine, MARKET_FAILURES)
    return tuple(takewhile(lambda node: _kind(node) == _kind(failed[0]), failed))


def common_stop(
    nodes: Sequence[Node], limit: int, resumed: Mapping[ModelName, datetime]
) -> str | None:
    """Why launches of all models must stop, or None: their last ones all failed before they were ready.

    Whatever each says of itself, so many in a row are the account's, the cloud's or our own trouble.

    Args:
        nodes: all models' nodes, closed ones of the last day included, oldest first.
        resumed: when a person last resumed each model; its failures before do not count.
    """
    failed = failed_in_a_row(nodes, resumed)
    if len(failed) < limit:
        return None
    failure = (failed[0].failure or "").partition("\n")[0]
    models = ", ".join(sorted({node.model for node in failed[:limit]}))
    return (
        f"limits.same_failure_limit is {limit}: the last {limit} launches of all models failed (the last: {failure}): "
        f"look at `autoscaler events`, then run `autoscaler resume MODEL` for one of {models}"
    )


def failed_in_a_row(
    nodes: Sequence[Node], resumed: Mapping[ModelName, datetime]
) -> tuple[Node, ...]:
    """The last launches of all models as far as all of them failed, newest first."""
    counted = [n for n in nodes if n.model not in resumed or n.created_at > resumed[n.model]]
    return _failed_last(counted, _NO_LAUNCH_FAILED)


def _failed_last(nodes: Sequence[Node], overlooked: frozenset[str]) -> tuple[Node, ...]:
    """Newest first, those that failed before they were ready, up to one that was."""
    ended = [
        node
        for node in reversed(nodes)
        if (node.failure is not None or node.ready_at is not None) and _kind(node) not in overlooked
    ]
    return tuple(takewhile(lambda node: node.ready_at is None, ended))


def _kind(node: Node) -> str:
    return (node.failure or "").partition(":")[0]
