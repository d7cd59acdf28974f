"""What the doctor looks at on this host: files, the store, ports, the processes that should answer."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from autoscaler.config import Config
from autoscaler.config_file import PolicyFiles
from autoscaler.errors import ConfigError
from autoscaler.front import parse_address
from autoscaler.hub.learn import origin, wants_facts
from autoscaler.nodes.host_authority import open_host_authority
from autoscaler.nodes.keys import client_key, public_line, read_token
from autoscaler.nodes.startup.presets import driver_note
from autoscaler.setup.commands import start_daemon, start_gateway, start_tunnels, with_config
from autoscaler.setup.findings import Finding, fail, ok, warn
from autoscaler.setup.haproxies import check_haproxies
from autoscaler.store.sqlite_file import SCHEMA

_ANSWER_S = 5.0
_LEAST_FREE = 100 * 1024**2
_GOOD_FREE = 1024**3
_STORE_REMEDY = (
    "put a good copy back (a migration leaves one beside it), or use the version that wrote it; before a daemon starts "
    "without it: `autoscaler audit` lists the machines that it knew"
)


def check_policies(files: PolicyFiles, path: Path) -> list[Finding]:
    """Every policy: its mode, what is known of its model, its driver, its token.

    Args:
        path: the config's.
    """
    if not files.policies:
        return [
            warn("policies", "there is none", "write one: docs/policy.md, or `autoscaler init`")
        ]
    found = []
    for name, policy in files.policies.items():
        check = f"policy {name}"
        facts = origin(files.files[name], policy)
        if policy.server.token_file is not None:
            try:
                read_token(Path(policy.server.token_file))
            except ConfigError as exc:
                found.append(fail(check, str(exc), "write the hub's token there, and chmod 0600"))
                continue
        driver = driver_note(policy)
        if facts.facts is None and wants_facts(policy):
            found.append(
                warn(
                    check,
                    "nobody has said what shape its model has",
                    with_config("validate --online", path),
                )
            )
        elif driver is not None:
            found.append(warn(check, driver, "write an image that fits into server.image"))
        else:
            found.append(
                ok(check, f"{policy.engine}, {policy.mode}, at most {policy.nodes.max} nodes")
            )
    return found


def check_ssh_key(config: Config) -> Finding:
    """The key that opens the nodes. It is not made here."""
    path = config.ssh_key_file
    if not path.exists():
        return ok("ssh key", f"{path}: not there yet; the daemon makes it at its first start")
    try:
        key = client_key(path, config.ssh.key_type)
    except ConfigError as exc:
        return fail(
            "ssh key",
            str(exc),
            "mend the file, or move it away: the nodes that know it are then lost",
        )
    return ok("ssh key", f"{path}: {public_line(key).split()[0]}")


def check_host_authority(config: Config) -> Finding:
    """The key that proves nodes when the store is lost. Whether a copy is elsewhere, only a person knows."""
    check, path = "host authority", config.host_authority_file
    keep = "keep a copy on another machine: who has it takes the nodes over when this one is lost"
    if not path.exists():
        if path.is_relative_to("/run/credentials"):
            return ok(check, f"{path}: only the running service has it; {keep}")
        if not config.store_file.exists():
            return ok(check, f"{path}: not there yet; the daemon makes it. Then {keep}")
        remedy = (
            "put its copy back before the daemon starts: it would make another, which proves no "
            "node that this one signed (docs/adopting.md)"
        )
        return warn(check, f"{path}: gone, and the store is there", remedy)
    try:
        open_host_authority(path)
    except ConfigError as exc:
        return fail(check, str(exc), "mend the file, or put its copy back (docs/adopting.md)")
    return ok(check, f"{path}: ours alone; {keep}")


def check_store(config: Config) -> Finding:
    """The store's file: whole, of a form that this version knows, on a disk with room."""
    path = config.store_file
    home = next((each for each in (path.parent, *path.parents) if each.is_dir()), Path("/"))
    free = shutil.disk_usage(home).free
    room = f"{free / 1024**3:.1f} GiB free"
    if free < _LEAST_FREE:
        return fail("store", f"{home}: {room}", "make room: without it nothing can be recorded")
    if not path.exists():
        return ok("store", f"{path}: not there yet; the daemon makes it ({room})")
    try:
        if _is_held(path.with_suffix(".lock")):
            return ok("store", f"{path}: held by the daemon ({room})")
    except OSError as exc:
        return fail("store", f"{path}: {exc.strerror}", "run this as the daemon's user, or as root")
    problem = _sick(path)
    if problem is not None:
        return fail("store", f"{path}: {problem}", _STORE_REMEDY)
    if free < _GOOD_FREE:
        return warn("store", f"{path}: {room}", "make room before the disk is full")
    return ok("store", f"{path}: whole ({room})")


def _is_held(lock: Path) -> bool:
    """Whether a daemon has the store; nothing is made, and what is taken is given back at once."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _sick(path: Path) -> str | None:
    name = quote(
        str(path)
    )  # immutable: no file appears beside it that the daemon's user could not open
    try:
        with closing(sqlite3.connect(f"file:{name}?immutable=1", uri=True)) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            said = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as exc:
        return str(exc)
    if version > SCHEMA:
        return f"written by a newer version (form {version}, this one knows {SCHEMA})"
    return None if said == "ok" else said


async def check_processes(config: Config, path: Path) -> list[Finding]:
    """Daemon and balancers on their sockets, and the ports that they need.

    Args:
        path: the config's.
    """
    daemon = await _answers(config.socket)
    found = [
        ok("daemon", f"{config.socket}: answers")
        if daemon is None
        else warn("daemon", f"{config.socket}: {daemon}", f"start it: {start_daemon(path)}")
    ]
    host, port = parse_address(config.serve.listen)
    if daemon is not None:
        found.append(_port("port of the daemon", host, port, "serve.listen"))
    gateway = await _answers(config.gateway_control)
    if gateway is None:
        found.append(ok("gateway", f"{config.gateway_control}: answers"))
    else:
        start = f"start it: {start_gateway(path)}"
        found.append(warn("gateway", f"{config.gateway_control}: {gateway}", start))
        found += [
            _port("port for clients", *parse_address(address), "front.listen")
            for address in config.front.listen
        ]
    if config.way == "tunnel":
        found.append(await _tunnels(config, path))
    found += await check_haproxies(config)
    return found


async def _tunnels(config: Config, path: Path) -> Finding:
    silent = await _answers(config.tunnels_control)
    if silent is None:
        return ok("tunnels", f"{config.tunnels_control}: answers")
    start = (
        f"start it: {start_tunnels(path, config)}; it needs the SSH key that the daemon makes at its first start, and "
        "nothing is rented without it"
    )
    return warn("tunnels", f"{config.tunnels_control}: {silent}", start)


async def _answers(path: Path) -> str | None:
    """Why nobody takes a connection on a Unix socket; None when somebody does."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.close()
            await writer.wait_closed()
    except FileNotFoundError:
        return "no such socket"
    except TimeoutError:
        return f"no answer within {_ANSWER_S:g} s"
    except OSError as exc:
        return exc.strerror or str(exc)
    return None


def _port(check: str, host: str, port: int, key: str) -> Finding:
    """Whether a port could be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            match exc.errno:
                case errno.EADDRINUSE:
                    remedy = f"another program listens there (ss -ltnp 'sport = :{port}'): end it, or change {key}"
                case errno.EACCES:
                    remedy = f"ports below 1024 need a service with that right (deploy/systemd), or change {key}"
                case _:
                    remedy = f"change {key} to an address of this host"
            return fail(check, f"{host}:{port}: {exc.strerror}", remedy)
    return ok(check, f"{host}:{port}: free")
