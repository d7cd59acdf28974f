"""Tell a daemon that can be reached to launch nothing more, before `panic` deletes what it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp

from autoscaler.brakes.witness import NoWitness, ask
from autoscaler.cli.marked import Marked

_LAUNCH_NOTHING = ("paused", "retired", "no policy")
_TIMEOUT = aiohttp.ClientTimeout(total=15)


@dataclass(frozen=True, slots=True)
class Halt:
    """What came of it.

    Attributes:
        lives: a daemon of ours answered, whether it took the order or not.
        paused: models that it has paused.
        creating: names whose create call it had under way.
        notes: what to tell the operator.
    """

    lives: bool = False
    paused: tuple[str, ...] = ()
    creating: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


async def halt_daemon(whose: Marked, project: str) -> Halt:
    """Pause every model of the daemon on the config's socket, and see that it did. Never raises for what it says."""
    paused: tuple[str, ...] | None = None
    notes: list[str] = []
    if whose.socket is not None:
        try:
            paused = await _pause_all(whose)
        except (aiohttp.ClientConnectorError, FileNotFoundError):
            pass  # nobody is there: asking for a witness says so
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as exc:
            notes.append(f"no daemon was paused: {whose.socket}: {str(exc) or 'timed out'}")
        else:
            notes.append(f"the daemon launches no more: paused {', '.join(paused) or 'before'}")
    try:
        witness = await ask(whose.daemons, whose.owner, project)
    except NoWitness as exc:
        if paused is None:
            notes += [
                f"no daemon was paused: {exc}",
                "one that lives elsewhere would rent again: stop it there. What appears is deleted too",
            ]
        return Halt(paused is not None, paused or (), notes=tuple(notes))
    if paused is None:
        notes.append(
            f"a daemon lives at {witness.where} and takes no orders from here: it would rent again. "
            "Stop it, or run panic on its host"
        )
    return Halt(True, paused or (), witness.creating, tuple(notes))


async def _pause_all(whose: Marked) -> tuple[str, ...]:
    """The models that were not paused before."""
    connector = aiohttp.UnixConnector(str(whose.socket))
    async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
        mark = await _json(session, "GET", "/api/v1/inventory")
        if (mark["prefix"], mark["owner"]) != (whose.owner.prefix, whose.owner.owner):
            raise ValueError(f"its daemon is of {mark['prefix']}-{mark['owner']}: left alone")
        going = await _going(session)
        for model in going:
            await _json(session, "POST", "/api/v1/pause", {"model": model})
        if still := await _going(session):
            raise ValueError(f"{', '.join(still)}: still not paused")
        return going


async def _going(session: aiohttp.ClientSession) -> tuple[str, ...]:
    """Models that may launch."""
    models = (await _json(session, "GET", "/api/v1/status"))["models"]
    return tuple(m["model"] for m in models if m["mode"] not in _LAUNCH_NOTHING)


async def _json(
    session: aiohttp.ClientSession, method: str, path: str, body: object = None
) -> Any:  # whatever JSON the daemon serves
    async with session.request(method, f"http://daemon{path}", json=body) as answer:
        told = await answer.json()
        if answer.status != 200:
            raise ValueError(str(told.get("error", answer.reason)))
        return told
