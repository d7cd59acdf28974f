"""Sockets: bound here, or handed over by systemd; the control socket's file and its mode."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from autoscaler.errors import ConfigError
from autoscaler.front import parse_address

_FIRST_FD = 3
BACKLOG = 2048  # a loop's default of 100 makes a burst of clients wait a second for a second SYN


def listen_address(text: str) -> tuple[str, int]:
    """Read an option's HOST:PORT.

    Raises:
        ConfigError: it is not of this form.
    """
    try:
        return parse_address(text)
    except ValueError as exc:
        raise ConfigError(f"--listen {exc}") from exc


def inherited() -> tuple[list[socket.socket], list[socket.socket]]:
    """Take the sockets that systemd opened for us: those for clients, and those for control."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return [], []
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    os.environ.pop("LISTEN_PID")
    os.environ.pop("LISTEN_FDNAMES", None)
    clients: list[socket.socket] = []
    control: list[socket.socket] = []
    for fd in range(_FIRST_FD, _FIRST_FD + count):
        os.set_inheritable(fd, False)
        opened = socket.socket(fileno=fd)
        opened.setblocking(False)
        (control if opened.family == socket.AF_UNIX else clients).append(opened)
    return clients, control


def bind_tcp(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    """Listen on an address.

    Raises:
        ConfigError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((host, port))
        opened.listen(BACKLOG)
    except OSError as exc:
        opened.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {exc.strerror or exc}; "
            "choose another address, or stop what listens there (ss -ltnp shows it)"
        ) from exc
    opened.setblocking(False)
    return opened


def bind_control(path: Path, mode: int = 0o660) -> socket.socket:
    """Listen on a Unix socket of that mode; a socket file that nobody serves is replaced.

    Raises:
        ConfigError: another process serves it, or it cannot be made.
    """
    _remove_stale(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(
        0o777 & ~mode
    )  # before bind: there is no moment in which the file is open to others
    try:
        opened.bind(str(path))
        opened.listen(BACKLOG)
    except OSError as exc:
        opened.close()
        hint = "make its directory, or name another socket (--control, or gateway.control)"
        raise ConfigError(f"cannot listen on {path}: {exc.strerror or exc}; {hint}") from exc
    finally:
        os.umask(umask)
    opened.setblocking(False)
    return opened


def unlink_control(path: Path, inode: int) -> None:
    """Remove our control socket's file, unless another process has put its own there."""
    with contextlib.suppress(OSError):
        if path.stat().st_ino == inode:
            path.unlink()


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise ConfigError(f"{path} exists and is not a socket; name another path")
    except FileNotFoundError:
        return
    except OSError as exc:
        raise ConfigError(f"cannot look at {path}: {exc.strerror}") from exc
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as exc:
            raise ConfigError(f"cannot try {path}: {exc.strerror or exc}") from exc
    raise ConfigError(f"another process already serves {path}; stop it, or name another path")
