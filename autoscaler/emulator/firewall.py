"""Which connections the firewall's rules would let in.

Nothing here stops a packet: on loopback the emulator cannot. It answers the question, so that
whoever can refuse a connection does, and a test can ask.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from autoscaler.emulator.books import Books
from autoscaler.emulator.model import FirewallRule, Vm

SSH_PORT = 22


def allows(books: Books, vm: Vm, port: int, source: str, protocol: str, ssh_port: int) -> bool:
    """Say whether `source` may reach `port` of `vm` from outside.

    Open by default: SSH and ICMP from anywhere, everything from within the network.

    Raises:
        ValueError: `source` is not an IP address.
    """
    address = ipaddress.ip_address(source)
    if protocol == "icmp" or (protocol == "tcp" and port in (SSH_PORT, ssh_port)):
        return True
    network = books.network_of(vm.project_id)
    if address in ipaddress.ip_network(network.cidr):
        return True
    return any(
        rule.state == "active"
        and rule.direction == "ingress"
        and rule.network_id == network.id
        and protocol in rule.protocols
        and in_ports(port, rule.destination_ports)
        and _is_source(address, rule)
        and _is_destination(books, vm, rule)
        for rule in books.rules.values()
    )


def in_ports(port: int, ranges: Iterable[str]) -> bool:
    """`ranges` are as `8000` or `3000-8080`."""
    for text in ranges:
        low, _, high = text.partition("-")
        if int(low) <= port <= int(high or low):
            return True
    return False


def is_port_range(text: str) -> bool:
    low, _, high = text.partition("-")
    if not (low.isdecimal() and (high or low).isdecimal()):
        return False
    return 1 <= int(low) <= int(high or low) <= 65535


def _is_source(address: ipaddress.IPv4Address | ipaddress.IPv6Address, rule: FirewallRule) -> bool:
    return any(
        "cidr" in source and address in ipaddress.ip_network(source["cidr"], strict=False)
        for source in rule.sources
    )


def _is_destination(books: Books, vm: Vm, rule: FirewallRule) -> bool:
    mine = {vm.id, books.network_of(vm.project_id).id, books.subnet_of(vm).id}
    for destination in rule.destinations:
        if destination.get("resource_id") in mine:
            return True
        cidr = destination.get("cidr")
        if cidr and vm.address and _contains(cidr, vm.address):
            return True
    return False


def _contains(cidr: str, address: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr, strict=False)
