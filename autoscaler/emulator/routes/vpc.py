"""Networks, subnets and firewall rules."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from datetime import datetime

from autoscaler.emulator.cloud import Cloud
from autoscaler.emulator.firewall import is_port_range
from autoscaler.emulator.http import (
    Answer,
    Call,
    Route,
    bad_request,
    json_answer,
    not_found,
    read_json,
)
from autoscaler.emulator.model import FirewallRule, OperationState
from autoscaler.emulator.schema import RuleCreate, RuleObject, RulePatch, read

ROOT = "/projects/{project_id}/vpc"


def routes(cloud: Cloud) -> list[Route]:
    """The VPC endpoints."""

    def networks(call: Call) -> Answer:
        shapes, all_networks = cloud.shapes(), cloud.books.networks.values()
        mine = [one for one in all_networks if one.project_id == call.project_id]
        return json_answer({"items": [shapes.network(network) for network in mine]})

    def subnets(call: Call) -> Answer:
        shapes, network = cloud.shapes(), cloud.books.network_of(call.project_id)
        mine = [one for one in cloud.books.subnets.values() if one.network_id == network.id]
        return json_answer({"items": [shapes.subnet(subnet) for subnet in mine]})

    def list_rules(call: Call) -> Answer:
        shapes, rules = cloud.shapes(), cloud.books.rules.values()
        mine = [one for one in rules if one.project_id == call.project_id]
        return json_answer({"items": [shapes.rule(rule) for rule in mine]})

    def create(call: Call) -> Answer:
        body = read(RuleCreate, call.request)
        request = read_json(call.request)
        assert isinstance(request, dict)  # RuleCreate was read from it
        if body.vpc_network_id != cloud.books.network_of(call.project_id).id:
            raise bad_request("vpc_network_id: no such network")
        now = cloud.now()
        rule = FirewallRule(
            id=cloud.shop.chance.new_id(),
            project_id=call.project_id,
            network_id=body.vpc_network_id,
            name=body.name,
            action=body.action,
            direction=body.direction,
            protocols=list(body.protocols),
            sources=_objects(cloud, call.project_id, "sources", body.sources),
            source_ports=_ports("source_ports", body.source_ports),
            destinations=_objects(cloud, call.project_id, "destinations", body.destinations),
            destination_ports=_ports("destination_ports", body.destination_ports),
            created_at=now,
        )
        cloud.books.rules[rule.id] = rule

        def active(_: datetime) -> None:
            rule.state = "active"

        result: dict[str, object] = {"id": rule.id, "name": rule.name}
        return _begun(cloud, rule, "CREATE", "create_rule", request, result, active)

    def get(call: Call) -> Answer:
        return json_answer(cloud.shapes().rule(_rule(cloud, call)))

    def patch(call: Call) -> Answer:
        rule = _rule(cloud, call)
        body = read(RulePatch, call.request)
        changes: dict[str, object] = {}
        if body.name is not None:
            changes["name"] = body.name
        if body.protocols is not None:
            changes["protocols"] = list(body.protocols)
        for field in ("sources", "destinations"):
            if (objects := getattr(body, field)) is not None:
                changes[field] = _objects(cloud, call.project_id, field, objects)
        for field in ("source_ports", "destination_ports"):
            if (ports := getattr(body, field)) is not None:
                changes[field] = _ports(field, ports)

        def changed(_: datetime) -> None:
            for field, value in changes.items():
                setattr(rule, field, value)

        return _begun(cloud, rule, "UPDATE", "patch_rule", {}, None, changed)

    def delete(call: Call) -> Answer:
        rule = _rule(cloud, call)
        rule.state = "inactive"

        def removed(_: datetime) -> None:
            cloud.books.rules.pop(rule.id, None)

        return _begun(cloud, rule, "DELETE", "delete_rule", {}, None, removed)

    rules, one = f"{ROOT}/firewall-rules", f"{ROOT}/firewall-rules/{{rule_id}}"
    return [
        Route("GET", f"{ROOT}/networks", "networks", networks),
        Route("GET", f"{ROOT}/subnets", "subnets", subnets),
        Route("GET", rules, "list_rules", list_rules),
        Route("POST", rules, "create_rule", create),
        Route("GET", one, "get_rule", get),
        Route("PATCH", one, "patch_rule", patch),
        Route("DELETE", one, "delete_rule", delete),
    ]


def _rule(cloud: Cloud, call: Call) -> FirewallRule:
    rule = cloud.books.rules.get(call.params["rule_id"])
    if rule is None or rule.project_id != call.project_id:
        raise not_found("firewall rule")
    return rule


def _objects(
    cloud: Cloud, project_id: str, field: str, objects: Sequence[RuleObject]
) -> list[dict[str, str]]:
    """Each is a cidr or a resource, not both; a switch may refuse whole networks."""
    books = cloud.books
    network = books.network_of(project_id)
    wide = {network.id, *(s.id for s in books.subnets.values() if s.network_id == network.id)}
    vms = {vm.id for vm in books.vms_of(project_id)}
    told: list[dict[str, str]] = []
    for one in objects:
        if bool(one.cidr) == bool(one.resource_id):
            raise bad_request(f"{field}: give either cidr or resource_id")
        if one.cidr:
            told.append({"cidr": _cidr(field, one.cidr)})
            continue
        resource_id = str(one.resource_id)
        if resource_id not in wide | vms:
            raise bad_request(f"{field}: resource_id does not exist")
        if resource_id in wide and books.switches.network_rules == "refused":
            raise bad_request(f"{field}: resource_id must be a vm")
        told.append({"resource_id": resource_id})
    return told


def _cidr(field: str, text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError as exc:
        raise bad_request(f"{field}: {text!r} is not a CIDR") from exc
    return text


def _ports(field: str, ports: Sequence[str]) -> list[str]:
    for text in ports:
        if not is_port_range(text):
            raise bad_request(f"{field}: {text!r} is neither a port nor a range")
    return list(ports)


def _begun(
    cloud: Cloud,
    rule: FirewallRule,
    name: str,
    call: str,
    request: dict[str, object],
    result: dict[str, object] | None,
    effect: Callable[[datetime], None],
) -> Answer:
    """Firewall operations take effect when they end."""
    now = cloud.now()
    stuck = cloud.stuck(call, rule.name)
    operation = cloud.books.begin(
        "firewall_rule", name, rule.project_id, rule.id, request, now, stuck=stuck
    )

    def end(at: datetime) -> None:
        effect(at)
        cloud.books.end(operation, OperationState.SUCCEEDED, result, at)

    delay = cloud.shop.draw(cloud.shop.settings.timings.firewall, name, rule.id)
    if not stuck:
        cloud.shop.agenda.at(now + delay, end)
    return json_answer(cloud.shapes().begun(operation))
