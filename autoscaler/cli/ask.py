"""How commands reach the daemon: over its Unix socket. Without a daemon the reading ones open the store themselves."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import typer

from autoscaler.cli.question import is_agreed
from autoscaler.clock import SystemClock
from autoscaler.config import Config
from autoscaler.errors import ConfigError, StoreUnavailable
from autoscaler.serve.views import Views
from autoscaler.store.sqlite import SqliteStore

ConfigOption = Annotated[Path, typer.Option("--config", help="config.toml of the daemon")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]

DEFAULT_CONFIG = Path("config.toml")
_WITHIN_S = 30.0


class NoDaemon(ConfigError):
    """No daemon answers on the socket that the config names."""


class NotNow(ConfigError):
    """The daemon answers, and cannot do or know it now: the cloud or the store is away."""


async def get(config: Config, path: str, **query: str) -> Any:  # whatever JSON the daemon serves
    """Ask the daemon. Raises `NoDaemon`, or `ConfigError` with what the daemon says is wrong."""
    return await _ask(config, "GET", path, params=query)


async def post(
    config: Config, path: str, *, within_s: float = _WITHIN_S, **body: Any
) -> Any:  # whatever JSON the daemon serves
    """Tell the daemon. Raises as `get` does."""
    return await _ask(config, "POST", path, within_s, json=body)


async def _ask(
    config: Config, method: str, path: str, within_s: float = _WITHIN_S, **options: Any
) -> Any:
    connector = aiohttp.UnixConnector(str(config.socket))
    timeout = aiohttp.ClientTimeout(total=within_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        try:
            async with session.request(method, f"http://daemon{path}", **options) as answer:
                body = await answer.json()
                if answer.status >= 400:
                    kind = NotNow if answer.status == 503 else ConfigError
                    raise kind(str(body.get("error", answer.reason)))
                return body
        except (aiohttp.ClientConnectorError, FileNotFoundError) as exc:
            raise NoDaemon(
                f"{config.socket}: no daemon answers: start it with `autoscaler run`, or name its "
                "config with --config"
            ) from exc
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise ConfigError(f"{config.socket}: the daemon did not answer well: {exc}") from exc


def agreed(question: str, *, yes: bool) -> None:
    """Ask before something is changed.

    Raises:
        ConfigError: there is nobody to ask.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(
            "nothing was changed: there is nobody to ask, since this is no terminal: say --yes to agree beforehand"
        )
    if not is_agreed(question):
        raise typer.Abort


@asynccontextmanager
async def own_store(config: Config) -> AsyncIterator[SqliteStore]:
    """The store, opened by this process because no daemon holds it.

    Raises:
        StoreUnavailable: a daemon that does not answer holds the file, or there is no store.
    """
    if not config.store_file.exists():
        raise StoreUnavailable(
            f"{config.store_file}: no store yet: no daemon has run here: start it with `autoscaler run`"
        )
    store = SqliteStore.open(config.store_file, wait=config.timings.store_wait)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def own_views(config: Config) -> AsyncIterator[Views]:
    """The views of a store that no daemon holds. Raises as `own_store` does."""
    async with own_store(config) as store:
        yield Views(store, SystemClock())
