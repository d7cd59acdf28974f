"""Our own gateway as a balancer, driven through its control API on a Unix socket.

The gateway counts each request before it sends it, so its in-flight figures are exact and a drain is seen at once.
It keeps its endpoints in a state file over a restart; where that file is lost, `register` puts them back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import aiohttp
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoscaler.balance.protocol import Pool, PoolReport, Probed, ServerReport, ServerState
from autoscaler.domain.ids import ModelName
from autoscaler.domain.node import Endpoint
from autoscaler.errors import BalancerUnavailable

log = structlog.get_logger(__name__)

_ANSWER_TIME = timedelta(seconds=3)
_ANSWER_LIMIT = 16 * 1024 * 1024


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _EndpointState(_Answer):
    url: str
    host_name: str | None = None
    weight: float
    max_inflight: int
    state: Literal["active", "draining"]
    in_flight: int = Field(ge=0)
    ejected: bool = False


class _PoolState(_Answer):
    aliases: list[str] = []
    waiting: int = Field(ge=0)
    endpoints: dict[str, _EndpointState]


class _Predecessor(_Answer):
    fresh: bool


class _Probe(_Answer):
    status: int = Field(default=0, ge=0, le=999)
    body: str = ""
    seconds: float = Field(default=0.0, ge=0)
    failed: Literal["connect", "tls", "timeout", "answer"] | None = None
    why: str = ""

    def value(self) -> Probed:
        return Probed(self.status, self.body.encode(), self.seconds, self.failed, self.why)


class _State(_Answer):
    boot_id: str
    predecessors: list[_Predecessor] = []
    pools: dict[str, _PoolState]


class GatewayBalancer:
    """One gateway process. It satisfies `Balancer`.

    Args:
        control: the gateway's control socket.
        name: unique among the configured balancers.
        answer_time: for one call.
        authority: the certificate, in PEM form, of who vouches for servers of https URLs.
    """

    def __init__(
        self,
        control: Path,
        name: str = "gateway",
        answer_time: timedelta = _ANSWER_TIME,
        authority: str | None = None,
    ) -> None:
        self._control = control
        self._name = name
        self._answer_time = answer_time
        self._authority = authority
        self._session: aiohttp.ClientSession | None = None
        self._queues_in_engine: set[ModelName] = set()

    @property
    def name(self) -> str:
        """Unique among the configured balancers, for messages."""
        return self._name

    @property
    def settle_time(self) -> timedelta:
        """A request counts from the moment its endpoint is chosen: any next reading has it."""
        return timedelta(0)

    async def report(self, model: ModelName) -> PoolReport:
        """Read what the gateway knows of this model right now; an unknown model has no servers.

        A server is up unless it refused its last connections: the gateway has no checks of its own.
        """
        state = await self._state()
        pool = state.pools.get(model)
        return PoolReport(
            model=model,
            servers=tuple(
                ServerReport(
                    endpoint_id=endpoint_id,
                    url=endpoint.url,
                    state=_server_state(endpoint),
                    in_flight=endpoint.in_flight,
                    weight=round(endpoint.weight),
                    check_fails=endpoint.ejected,
                )
                for endpoint_id, endpoint in (pool.endpoints.items() if pool is not None else ())
            ),
            incarnation=state.boot_id,
            # what they have is in the sum above, unless they do not answer the gateway
            old_processes=sum(not one.fresh for one in state.predecessors),
            waiting=pool.waiting if pool is not None else 0,
            at=datetime.now(UTC),
        )

    async def ensure_pool(self, pool: Pool) -> None:
        """Make the model known, with these settings; its endpoints and its line stay."""
        wait = {
            "max_requests": pool.hold_requests,
            "max_bytes": pool.hold_bytes,
            "max_wait_s": pool.hold_time.total_seconds(),
        }
        body = {
            "model": pool.model,
            "aliases": list(pool.aliases),
            "hold": wait,
            "queue": wait,
            "retry_after_s": pool.retry_after.total_seconds(),
            **_options(pool),
        }
        await self._change("/v1/pools/put", body)
        await self._tell_outlook(pool)
        known = (await self._state()).pools.get(pool.model)
        if known is None or set(known.aliases) != set(pool.aliases) - {pool.model}:
            raise self._not_done(f"pool {pool.model!r} is not as it was told")
        if pool.queue_in_engine:
            self._queues_in_engine.add(pool.model)
        else:
            self._queues_in_engine.discard(pool.model)

    async def _tell_outlook(self, pool: Pool) -> None:
        """Say when a node will be ready. Advice only: that it was not heard fails nothing."""
        if pool.ready_in is None:
            return
        body = {
            "model": pool.model,
            "likely_s": pool.ready_in.total_seconds(),
            "soonest_s": pool.ready_soonest.total_seconds(),
        }
        try:
            await self._change("/v1/pools/expect", body)
        except BalancerUnavailable as exc:
            log.debug("outlook_not_told", balancer=self._name, why=str(exc))

    async def register(self, model: ModelName, endpoint: Endpoint) -> None:
        """Add the endpoint, or bring it back from draining; nothing is sent when the gateway has it already."""
        if self._has(await self._state(), model, endpoint):
            return
        body = {
            "model": model,
            "id": endpoint.id,
            "url": endpoint.url,
            "weight": endpoint.weight,
            "max_inflight": self._max_in_flight(model, endpoint),
            **self._trust(endpoint),
        }
        await self._change("/v1/endpoints/add", body)
        if not self._has(await self._state(), model, endpoint):
            raise self._not_done(f"endpoint {endpoint.id!r} is not registered")
        log.info("server_registered", balancer=self._name, server=endpoint.id)

    async def probe(
        self,
        endpoint: Endpoint,
        path: str,
        payload: Mapping[str, object] | None,
        timeout: timedelta,
    ) -> Probed:
        """Let the gateway itself send one request there, as it sends clients'. The endpoint need not be registered."""
        body: dict[str, object] = {
            "url": endpoint.url,
            "path": path,
            "timeout_s": timeout.total_seconds(),
            **self._trust(endpoint),
        }
        if payload is not None:
            body["payload"] = dict(payload)
        raw = await self._call("POST", "/v1/probe", body, timeout + self._answer_time)
        try:
            return _Probe.model_validate_json(raw).value()
        except ValidationError as exc:
            raise self._not_done(f"the probe of {endpoint.url} is not told") from exc

    async def drain(self, model: ModelName, endpoint_id: str) -> None:
        """Send it nothing new; unknown is no error, since it gets nothing either."""
        known = _endpoint(await self._state(), model, endpoint_id)
        if known is None or known.state == "draining":
            return
        await self._change("/v1/endpoints/drain", {"model": model, "id": endpoint_id})
        known = _endpoint(await self._state(), model, endpoint_id)
        if known is not None and known.state != "draining":
            raise self._not_done(f"endpoint {endpoint_id!r} still takes requests")
        log.info("server_drained", balancer=self._name, server=endpoint_id)

    async def remove(self, model: ModelName, endpoint_id: str, *, force: bool = False) -> None:
        """Forget the endpoint; unknown is no error. With `force` even one with requests in flight.

        What is in flight there then goes on uncounted, and ends with its machine.

        Raises:
            BalancerUnavailable: requests are in flight there.
        """
        if _endpoint(await self._state(), model, endpoint_id) is None:
            return
        body = {"model": model, "id": endpoint_id, "force": force}
        await self._change("/v1/endpoints/remove", body)
        if _endpoint(await self._state(), model, endpoint_id) is not None:
            raise self._not_done(f"endpoint {endpoint_id!r} is still listed")
        log.info("server_removed", balancer=self._name, server=endpoint_id)

    async def drop_pool(self, model: ModelName) -> None:
        """Forget the model; unknown is no error.

        Raises:
            BalancerUnavailable: requests run or wait there.
        """
        if model not in (await self._state()).pools:
            return
        await self._change("/v1/pools/remove", {"model": model})
        if model in (await self._state()).pools:
            raise self._not_done(f"pool {model!r} is still listed")
        self._queues_in_engine.discard(model)

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _trust(self, endpoint: Endpoint) -> dict[str, object]:
        """Who must vouch for it; left out where it speaks plain HTTP, so that an older gateway understands."""
        if endpoint.host_name is None or self._authority is None:
            return {}
        return {"trust": {"authority": self._authority, "host_name": endpoint.host_name}}

    def _max_in_flight(self, model: ModelName, endpoint: Endpoint) -> int:
        """How many requests the gateway may place there at once; 0 is no bound."""
        return 0 if model in self._queues_in_engine else max(1, endpoint.capacity)

    def _has(self, state: _State, model: ModelName, endpoint: Endpoint) -> bool:
        known = _endpoint(state, model, endpoint.id)
        return known is not None and (
            known.url == endpoint.url.rstrip("/")
            and known.host_name == (endpoint.host_name if self._authority is not None else None)
            and known.state == "active"
            and known.weight == endpoint.weight
            and known.max_inflight == self._max_in_flight(model, endpoint)
        )

    def _not_done(self, what: str) -> BalancerUnavailable:
        return BalancerUnavailable(
            f"{self._name}: {what}, whatever the gateway at {self._control} answered"
        )

    # the wire

    async def _state(self) -> _State:
        raw = await self._call("GET", "/v1/state")
        try:
            return _State.model_validate_json(raw)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BalancerUnavailable(
                f"{self._name}: /v1/state on {self._control} is not a gateway's state: {where}:"
                f" {first['msg']}; do daemon and gateway have the same version?"
            ) from exc

    async def _change(self, path: str, body: dict[str, object]) -> None:
        await self._call("POST", path, body)

    async def _call(
        self,
        method: str,
        path: str,
        body: dict[str, object] | None = None,
        patience: timedelta | None = None,
    ) -> bytes:
        patience = patience or self._answer_time
        try:
            async with (
                asyncio.timeout(patience.total_seconds()),
                self._open_session().request(method, f"http://gateway{path}", json=body) as answer,
            ):
                raw = await _read(answer)
        except TimeoutError as exc:
            raise BalancerUnavailable(
                f"{self._name}: the gateway did not answer on {self._control} within"
                f" {patience.total_seconds():g} s: see that it is not stopped or starved"
                " of CPU"
            ) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise BalancerUnavailable(
                f"{self._name}: the gateway cannot be asked on {self._control}"
                f" ({_reason(exc)}): start it with `autoscaler gateway --control"
                f" {self._control}`, and let this user write to the socket"
            ) from exc
        if answer.status != 200:
            raise BalancerUnavailable(
                f"{self._name}: the gateway at {self._control} refused {path}: HTTP"
                f" {answer.status} {raw[:300].decode('utf-8', 'replace')}"
            )
        return raw

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # no kept connection: one that a restarting gateway has closed would fail the next call
            connector = aiohttp.UnixConnector(str(self._control), force_close=True)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session


def _options(pool: Pool) -> dict[str, object]:
    """What a pool may have besides; left out when it has not, so that an older gateway understands."""
    options: dict[str, object] = {}
    if pool.sse_comments is not None:
        options["sse_comment_s"] = pool.sse_comments.total_seconds()
    if pool.affinity is not None:
        affinity = pool.affinity
        options["affinity"] = {
            "header": affinity.header.lower() if affinity.header is not None else None,
            "prompt_chars": affinity.prompt_chars,
            "bound": affinity.bound,
        }
    if pool.max_model_len is not None:
        options["max_model_len"] = pool.max_model_len
    return options


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    raw = bytearray()
    async for chunk in answer.content.iter_any():
        raw += chunk
        if len(raw) > _ANSWER_LIMIT:
            raise aiohttp.ClientPayloadError(f"an answer of more than {_ANSWER_LIMIT} bytes")
    return bytes(raw)


def _endpoint(state: _State, model: ModelName, endpoint_id: str) -> _EndpointState | None:
    pool = state.pools.get(model)
    return pool.endpoints.get(endpoint_id) if pool is not None else None


def _server_state(endpoint: _EndpointState) -> ServerState:
    if endpoint.state == "draining":
        return ServerState.DRAINING
    return ServerState.DOWN if endpoint.ejected else ServerState.UP


def _reason(exc: Exception) -> str:
    cause = getattr(exc, "os_error", exc)
    return getattr(cause, "strerror", None) or str(exc) or type(exc).__name__
