"""One ingress rule per name, made once and kept as wanted.

Serving ports are closed until a rule exists, and whoever lists rules too early after making one
sees none; mkinf may list none at all. What was asked for is remembered here until it was listed,
so that no twin is made, and where rules are not listed our own record stands in for the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from autoscaler.clock import Clock
from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.values import FirewallRule as Listed
from autoscaler.cloud.mkinf.values import Operation, RuleRequest
from autoscaler.domain.machine import FirewallRule
from autoscaler.errors import (
    CloudUnavailable,
    EndpointMissing,
    NotFound,
    OutcomeUnknown,
    OutOfStock,
    PaymentRequired,
    Rejected,
)

log = structlog.get_logger(__name__)

_SETTLING_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """A rule that was asked for and not listed yet.

    Attributes:
        rule: as it was asked for; None while the answer is lost.
        operation_id: None where the answer was the bare rule.
    """

    at_s: float
    rule: FirewallRule | None = None
    operation_id: str | None = None


class Firewall:
    """Keeps rules by name."""

    def __init__(self, client: MkinfClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._asked: dict[str, _Asked] = {}

    async def rules(self) -> tuple[FirewallRule, ...]:
        """List the rules; see `Cloud.firewall_rules`."""
        return tuple(_told(each) for each in await self._client.firewall_rules())

    async def ensure(
        self,
        name: str,
        sources: Sequence[str],
        ports: Sequence[int],
        machine_id: str | None = None,
    ) -> FirewallRule:
        """Make, verify or mend the rule; see `Cloud.ensure_firewall_rule`.

        Args:
            machine_id: open the ports of this VM only, where the cloud refuses rules for a
                whole network.
        """
        wanted = tuple(sorted(sources)), tuple(sorted(str(port) for port in ports))
        listed = await self._listed(name)
        if not listed:
            self._forget_unanswered(name, is_listable=listed is not None)
            return await self._unlisted(name, *wanted, machine_id)
        first, *twins = sorted(listed, key=lambda each: each.id)
        for twin in twins:
            log.warning("firewall_twin_deleted", name=name, rule=twin.id)
            await self.delete(twin.id)
        rule = await self._judged(name, first)
        if (rule.sources, rule.ports) == wanted and _is_tcp_ingress(first):
            return rule
        if not _is_tcp_ingress(first):
            # Its direction and action cannot be changed: it goes, and the next pass makes another.
            await self.delete(first.id)
            raise CloudUnavailable(f"firewall rule {name!r} was no TCP ingress rule: made anew")
        return await self._mend(rule, *wanted)

    async def delete(self, rule_id: str) -> None:
        """Ask for a rule to go; see `Cloud.delete_firewall_rule`."""
        try:
            await self._client.delete_firewall_rule(rule_id)
        except NotFound:
            log.debug("firewall_rule_unknown", rule=rule_id)

    async def _listed(self, name: str) -> list[Listed] | None:
        """The rules of that name; None where mkinf lists no rules."""
        try:
            listing = await self._client.firewall_rules()
        except EndpointMissing as exc:
            log.warning("firewall_rules_unlistable", reason=str(exc))
            return None
        named = [each for each in listing if each.name == name]
        if not named and not listing.complete:
            raise CloudUnavailable(
                f"whether firewall rule {name!r} exists is not known: {listing.problems[0]}"
            )
        return named

    def _forget_unanswered(self, name: str, *, is_listable: bool) -> None:
        """A rule whose answer was lost and that a complete list does not show, later on, was never made."""
        asked = self._asked.get(name)
        if asked is None or asked.rule is not None or not is_listable:
            return
        if self._clock.boot_s() - asked.at_s >= _SETTLING_S:
            del self._asked[name]

    async def _judged(self, name: str, listed: Listed) -> FirewallRule:
        """What a listed rule is; one that is listed without a state is active once it was made."""
        asked = self._asked.get(name)
        rule = _told(listed)
        if not listed.state:
            rule = replace(rule, active=asked is None or await self._is_made(name, asked))
        if rule.active:
            self._asked.pop(name, None)  # should it vanish now, it may be made again
        return rule

    async def _mend(
        self, rule: FirewallRule, sources: tuple[str, ...], ports: tuple[str, ...]
    ) -> FirewallRule:
        log.warning(
            "firewall_rule_mended",
            name=rule.name,
            was=(rule.sources, rule.ports),
            now=(sources, ports),
        )
        await self._client.update_firewall_rule(rule.id, sources=sources, destination_ports=ports)
        return replace(rule, sources=sources, ports=ports, active=False)

    async def _unlisted(
        self, name: str, sources: tuple[str, ...], ports: tuple[str, ...], machine_id: str | None
    ) -> FirewallRule:
        """The rule that no list shows: made once; then our own record of it counts."""
        asked = self._asked.get(name)
        if asked is None:
            return await self._make(name, sources, ports, machine_id)
        if asked.rule is None:
            raise CloudUnavailable(
                f"firewall rule {name!r} was asked for, the answer was lost, and it is not listed:"
                " look in mkinf's console, and set firewall.manage = false if it is there"
            )
        if (asked.rule.sources, asked.rule.ports) != (sources, ports):
            mended = await self._mend(asked.rule, sources, ports)
            self._asked[name] = _Asked(self._clock.boot_s(), mended)
            return mended
        return replace(asked.rule, active=await self._is_made(name, asked))

    async def _is_made(self, name: str, asked: _Asked) -> bool:
        """Whether the making has ended well: by its operation, or where that is not told, by time."""
        settled = self._clock.boot_s() - asked.at_s >= _SETTLING_S
        if asked.operation_id is None:
            return settled
        try:
            operation = await self._client.operation(asked.operation_id, "firewall-rules")
        except (NotFound, EndpointMissing):
            return settled
        if operation.state == "FAILED":
            del self._asked[name]
            why = operation.result.message if operation.result is not None else ""
            raise CloudUnavailable(
                f"firewall rule {name!r} was not made: {why or 'no reason given'}"
            )
        if operation.state == "SUCCEEDED":  # the end may be told once only
            self._asked[name] = replace(asked, at_s=-_SETTLING_S, operation_id=None)
        return operation.state == "SUCCEEDED"

    async def _make(
        self, name: str, sources: tuple[str, ...], ports: tuple[str, ...], machine_id: str | None
    ) -> FirewallRule:
        network = await self._network()
        request = RuleRequest(name, network, sources, ports, destination_id=machine_id)
        self._asked[name] = _Asked(self._clock.boot_s())
        try:
            answer = await self._client.create_firewall_rule(request)
        except OutcomeUnknown as exc:
            raise CloudUnavailable(f"firewall rule {name!r} may have been made: {exc}") from exc
        except (CloudUnavailable, OutOfStock, PaymentRequired, EndpointMissing):
            del self._asked[name]
            raise
        except Rejected as exc:
            del self._asked[name]
            raise Rejected(
                f"{exc}. mkinf refuses the rule {name!r} for the network: set firewall.manage ="
                f" false and open ports {', '.join(ports)} to {', '.join(sources)} yourself"
            ) from exc
        rule_id = answer.resource_id if isinstance(answer, Operation) else answer.id
        rule = FirewallRule(rule_id or "", name, sources, ports, active=False, network_id=network)
        operation_id = answer.operation_id if isinstance(answer, Operation) else None
        self._asked[name] = _Asked(self._clock.boot_s(), rule, operation_id)
        log.info("firewall_rule_made", name=name, sources=sources, ports=ports)
        return rule

    async def _network(self) -> str:
        """Find the network that VMs are put into."""
        networks = (await self._client.networks()).items
        if len(networks) > 1:
            networks = tuple(each for each in networks if "default" in (each.name or ""))
        if len(networks) != 1:
            raise Rejected(
                "which network VMs stand in cannot be told (`autoscaler cloud networks`): set"
                " firewall.manage = false and open the serving ports in mkinf's console"
            )
        return networks[0].id


def _told(rule: Listed) -> FirewallRule:
    return FirewallRule(
        id=rule.id,
        name=rule.name or "",
        sources=tuple(sorted(each.cidr or each.resource_id or "" for each in rule.sources)),
        ports=tuple(sorted(rule.destination_ports)),
        active=(rule.state or "").lower() == "active",
        network_id=rule.vpc_network_id,
    )


def _is_tcp_ingress(rule: Listed) -> bool:
    return (
        (rule.action or "allow").lower() == "allow"
        and (rule.direction or "ingress").lower() == "ingress"
        and tuple(each.lower() for each in rule.protocols) == ("tcp",)
    )
