"""What a tunnel is, and how it stands: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Login:
    """Whom an SSH connection is made to; tunnels to one login share one connection.

    Attributes:
        host_key: the node's proven public key, `ssh-ed25519 AAAA…`: it must show this one and no other.
    """

    address: str
    port: int
    user: str
    host_key: str


@dataclass(frozen=True, slots=True)
class TunnelSpec:
    """One tunnel as the daemon wants it.

    Attributes:
        id: the endpoint's.
        remote_port: where the model server listens on the node's own loopback.
    """

    id: str
    login: Login
    remote_port: int


class TunnelState(StrEnum):
    """What a connection to the local port meets."""

    UP = "up"  # it is taken
    CONNECTING = "connecting"  # refused: no SSH connection to the node stands
    DOWN = "down"  # refused: SSH stands, and the node's port does not answer


@dataclass(frozen=True, slots=True)
class TunnelsSettings:
    """What the process is told at its start.

    Attributes:
        control: path of the Unix socket that the daemon drives; a socket from systemd goes before it.
        key_file: the deployment's SSH key, which the daemon made.
        state_file: where tunnels and their local ports outlive a restart; None keeps nothing.
        first_port: local ports are taken from here on; keep them out of the kernel's ephemeral range.
        last_port: and up to here, so that this bounds the number of tunnels too.
        max_streams: connections through one tunnel; one more is reset.
        connect_timeout_s: for the TCP connection and the login to a node together.
        open_timeout_s: for a channel to the node's port, once a client has connected.
        keepalive_s: a node that is silent for so long is asked for a sign of life; the third unanswered ends it.
        retry_max_s: the longest pause between two attempts to connect.
        drain_timeout_s: after SIGTERM, seconds for open streams to end.
    """

    control: Path = Path("/run/autoscaler/tunnels.sock")
    key_file: Path = Path("/var/lib/autoscaler/ssh_key")
    state_file: Path | None = None
    first_port: int = 18000
    last_port: int = 19999
    max_streams: int = 1024
    connect_timeout_s: float = 20.0
    open_timeout_s: float = 3.0
    keepalive_s: float = 10.0
    retry_max_s: float = 15.0
    drain_timeout_s: float = 30.0
