"""`autoscaler cloud networks`, `subnets` and `firewall …`: who may reach the machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from autoscaler.cli.cloud_tables import (
    Id,
    Ids,
    YesOption,
    answered,
    document,
    each_answered,
    listed,
    notes,
    several,
)
from autoscaler.cli.connection import Table, cloud_command, confirmed
from autoscaler.cloud.mkinf.cloud import MkinfCloud
from autoscaler.cloud.mkinf.values import FirewallRule, RuleRequest
from autoscaler.errors import ConfigError

network_app = typer.Typer()
firewall_app = typer.Typer(
    name="firewall", help="Firewall rules of the project.", no_args_is_help=True
)
network_app.add_typer(firewall_app)

_RULE_COLUMNS = ("Name", "State", "Protocols", "From", "To", "Ports", "Id")


@network_app.command("networks")
@cloud_command
async def networks(cloud: MkinfCloud) -> Table:
    """List networks."""
    listing = await cloud.client.networks()
    return listed(listing, name="name", cidr="cidr", subnets="subnets", id="id")


@network_app.command("subnets")
@cloud_command
async def subnets(cloud: MkinfCloud) -> Table:
    """List subnets."""
    listing = await cloud.client.subnets()
    return listed(
        listing,
        name="name",
        cidr="cidr",
        location="location",
        network="vpc_network_id",
        id="id",
    )


@firewall_app.command("list")
@cloud_command
async def firewall_list(cloud: MkinfCloud) -> Table:
    """List firewall rules."""
    listing = await cloud.client.firewall_rules()
    rows = [rule_row(each) for each in listing]
    return Table(_RULE_COLUMNS, rows, document(listing), notes(listing))


@firewall_app.command("show")
@cloud_command
async def firewall_show(cloud: MkinfCloud, rule_id: Id) -> Table:
    """Show one rule."""
    rule = await cloud.client.firewall_rule(rule_id)
    return Table(_RULE_COLUMNS, [rule_row(rule)], rule)


@firewall_app.command("add")
@cloud_command
async def firewall_add(
    cloud: MkinfCloud,
    name: Annotated[str, typer.Argument(help="of the rule")],
    source: Annotated[list[str], typer.Option(help="CIDR that is let in; may be repeated")],
    port: Annotated[list[str], typer.Option(help="8000, or 3000-8080; may be repeated")],
    network: Annotated[str | None, typer.Option(help="id; the only one if left out")] = None,
    destination: Annotated[
        str | None, typer.Option(help="id of a VM or subnet; default: the whole network")
    ] = None,
    yes: YesOption = False,
) -> Table:
    """Let TCP from CIDRs in to ports."""
    if network is None:
        known = (await cloud.client.networks()).items
        if len(known) != 1:
            raise ConfigError(f"{len(known)} networks: name one with --network")
        network = known[0].id
    confirmed(f"Open {', '.join(port)} to {', '.join(source)}?", yes=yes)
    request = RuleRequest(name, network, tuple(source), tuple(port), destination)
    answer = await cloud.client.create_firewall_rule(request)
    if isinstance(answer, FirewallRule):
        return Table(_RULE_COLUMNS, [rule_row(answer)], answer)
    return answered([(name, answer)])


@firewall_app.command("update")
@cloud_command
async def firewall_update(
    cloud: MkinfCloud,
    rule_id: Id,
    name: Annotated[str | None, typer.Option(help="a new name")] = None,
    source: Annotated[list[str] | None, typer.Option(help="CIDRs instead of the present")] = None,
    port: Annotated[list[str] | None, typer.Option(help="ports instead of the present")] = None,
    yes: YesOption = False,
) -> Table:
    """Change a rule's name, sources or ports."""
    confirmed(f"Change rule {rule_id}?", yes=yes)
    answer = await cloud.client.update_firewall_rule(
        rule_id, name=name, sources=source, destination_ports=port
    )
    return answered([(rule_id, answer)])


@firewall_app.command("delete")
@cloud_command
async def firewall_delete(cloud: MkinfCloud, rule_ids: Ids, yes: YesOption = False) -> Table:
    """Delete rules: what they let in is shut out."""
    confirmed(f"Delete {several(rule_ids, 'rule')}?", yes=yes)
    return await each_answered(rule_ids, cloud.client.delete_firewall_rule)


def rule_row(rule: FirewallRule) -> Sequence[object]:
    return (
        rule.name,
        rule.state,
        rule.protocols,
        [each.cidr or each.resource_id for each in rule.sources],
        [each.cidr or each.resource_id for each in rule.destinations],
        rule.destination_ports,
        rule.id,
    )
