"""One ingress rule per name, made once and kept as wanted.

Serving ports are closed until a rule exists, and whoever lists rules too early after making one
sees none: what was asked for a short while ago is remembered here, so that no twin is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from autoscaler.clock import Clock
from autoscaler.cloud.mkinf.client import MkinfClient
from autoscaler.cloud.mkinf.values import FirewallRule as Listed
from autoscaler.cloud.mkinf.values import Operation, RuleRequest
from autoscaler.domain.machine import FirewallRule
from autoscaler.errors import CloudUnavailable, EndpointMissing, NotFound, OutcomeUnknown, Rejected

log = structlog.get_logger(__name__)

_SETTLING_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class _Asked:
    at_s: float
    rule: FirewallRule | None


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
            return await self._make(name, *wanted, machine_id)
        first, *twins = sorted(listed, key=lambda each: each.id)
        for twin in twins:
            log.warning("firewall_twin_deleted", name=name, rule=twin.id)
            await self.delete(twin.id)
        rule = _told(first)
        if (rule.sources, rule.ports) == wanted and _is_tcp_ingress(first):
            return rule
        if not _is_tcp_ingress(first):
            # Its direction and action cannot be changed: it goes, and the next pass makes another.
            await self.delete(first.id)
            raise CloudUnavailable(f"firewall rule {name!r} was no TCP ingress rule: made anew")
        log.warning("firewall_rule_mended", name=name, was=(rule.sources, rule.ports), now=wanted)
        await self._client.update_firewall_rule(
            first.id, sources=wanted[0], destination_ports=wanted[1]
        )
        return FirewallRule(first.id, name, *wanted, active=False, network_id=rule.network_id)

    async def delete(self, rule_id: str) -> None:
        """Ask for a rule to go; see `Cloud.delete_firewall_rule`."""
        try:
            await self._client.delete_firewall_rule(rule_id)
        except NotFound:
            log.debug("firewall_rule_unknown", rule=rule_id)

    async def _listed(self, name: str) -> list[Listed]:
        try:
            listing = await self._client.firewall_rules()
        except EndpointMissing as exc:
            log.warning("firewall_rules_unlistable", reason=str(exc))
            return []
        named = [each for each in listing if each.name == name]
        if not named and not listing.complete:
            raise CloudUnavailable(
                f"whether firewall rule {name!r} exists is not known: {listing.problems[0]}"
            )
        return named

    async def _make(
        self, name: str, sources: tuple[str, ...], ports: tuple[str, ...], machine_id: str | None
    ) -> FirewallRule:
        asked = self._asked.get(name)
        if asked is not None and self._clock.boot_s() - asked.at_s < _SETTLING_S:
            if asked.rule is not None and (asked.rule.sources, asked.rule.ports) == (
                sources,
                ports,
            ):
                return asked.rule
            raise CloudUnavailable(f"firewall rule {name!r} was asked for and is not listed yet")
        network = await self._network()
        request = RuleRequest(name, network, sources, ports, destination_id=machine_id)
        self._asked[name] = _Asked(self._clock.boot_s(), None)
        try:
            answer = await self._client.create_firewall_rule(request)
        except OutcomeUnknown as exc:
            raise CloudUnavailable(f"firewall rule {name!r} may have been made: {exc}") from exc
        except (CloudUnavailable, Rejected):
            del self._asked[name]
            raise
        rule_id = answer.resource_id if isinstance(answer, Operation) else answer.id
        rule = FirewallRule(rule_id or "", name, sources, ports, active=False, network_id=network)
        self._asked[name] = _Asked(self._clock.boot_s(), rule)
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
