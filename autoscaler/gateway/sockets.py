"""The listening sockets of one process: systemd's, those of the process that it takes over from, or its own."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from autoscaler.gateway.listen import bind_control, bind_tcp, inherited
from autoscaler.gateway.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class Handed:
    """A listening socket and what it is for: `client`, `control` or `metrics`. `inherited`: systemd opened it."""

    role: str
    opened: socket.socket
    inherited: bool = False


@dataclass(eq=False, slots=True)
class Sockets:
    """Opens what the settings ask for, and takes from `given` what fits.

    Raises:
        ConfigError: an address or a path cannot be had.
    """

    settings: GatewaySettings
    given: Sequence[Handed]
    stack: AsyncExitStack
    opened: list[Handed] = field(default_factory=list)

    def open(self) -> None:
        """Have them all; those given and not wanted are closed, their addresses end with the elder."""
        clients, control = inherited()
        self.opened += [Handed("client", one, inherited=True) for one in clients]
        self.opened += [Handed("control", one, inherited=True) for one in control]
        if not clients:
            self._open_clients()
        if not control:
            self._open_control()
        if self.settings.metrics is not None:
            self._open_at("metrics", *self.settings.metrics)
        for one in self.given:
            if one not in self.opened:
                one.opened.close()

    def of(self, role: str) -> list[socket.socket]:
        """Those of one role."""
        return [one.opened for one in self.opened if one.role == role]

    @property
    def owns_control(self) -> bool:
        """Whether the control socket's file is ours to remove."""
        return not any(one.inherited for one in self.opened if one.role == "control")

    def _open_clients(self) -> None:
        from_systemd = [one for one in self.given if one.role == "client" and one.inherited]
        self.opened += from_systemd
        if not from_systemd:
            for host, port in self.settings.listen:
                self._open_at("client", host, port)

    def _open_control(self) -> None:
        given = [one for one in self.given if one.role == "control"]
        self.opened += given or [Handed("control", bind_control(self.settings.control))]

    def _open_at(self, role: str, host: str, port: int) -> None:
        for one in self.given:
            if one.role == role and one not in self.opened and _is_at(one.opened, host, port):
                self.opened.append(one)
                return
        made = bind_tcp(host, port, reuse_port=self.settings.reuse_port)
        self.stack.callback(made.close)
        self.opened.append(Handed(role, made))


def _is_at(opened: socket.socket, host: str, port: int) -> bool:
    bound_host, bound_port = opened.getsockname()[:2]
    if bound_port != port:
        return False
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bound_host == host or any(bound_host == address[0] for *_, address in found)
