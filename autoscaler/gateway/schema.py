"""The control API's requests and the state file, validated; turned into plain values at once."""

from __future__ import annotations

import ipaddress
from dataclasses import asdict
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from autoscaler.gateway.endpoint import Endpoint, EndpointState, Trust
from autoscaler.gateway.settings import Affinity, PoolSettings, WaitBounds
from autoscaler.tls_words import trusting


def _endpoint_url(text: str) -> str:
    """Check the address of a model server: http or https, a host, nothing that could hide another."""
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError as exc:
        raise ValueError(f"not a URL: {exc}") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_valid:
        raise ValueError("want http://HOST:PORT or https://HOST:PORT")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("no user, query or fragment is allowed")
    if any(char.isspace() or ord(char) < 33 for char in text):
        raise ValueError("no spaces are allowed")
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        address = None
    if address is not None and address.is_link_local:
        raise ValueError("a link-local address (the metadata service) is never a model server")
    return text.rstrip("/")


def _certificate(text: str) -> str:
    trusting(text)
    return text


Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Url = Annotated[str, Field(max_length=2048), AfterValidator(_endpoint_url)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)


class BoundsBody(_Body):
    """Bounds of what may wait."""

    max_requests: int = Field(ge=0, le=1_000_000)
    max_bytes: int = Field(ge=0, le=1 << 40)
    max_wait_s: float = Field(ge=0, le=86_400)

    def value(self) -> WaitBounds:
        return WaitBounds(self.max_requests, self.max_bytes, self.max_wait_s)


_DEFAULT = PoolSettings("")
_AFFINITY = Affinity()


def _bounds_body(bounds: WaitBounds) -> BoundsBody:
    return BoundsBody(
        max_requests=bounds.max_requests,
        max_bytes=bounds.max_bytes,
        max_wait_s=bounds.max_wait_s,
    )


class AffinityBody(_Body):
    """What keeps a session on one endpoint."""

    header: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    prompt_chars: int = Field(default=_AFFINITY.prompt_chars, ge=1, le=100_000)
    bound: float = Field(default=_AFFINITY.bound, gt=1, le=10)

    def value(self) -> Affinity:
        return Affinity(self.header, self.prompt_chars, self.bound)


class PoolBody(_Body):
    """A pool's settings; what is left out has its default."""

    model: Name
    aliases: list[Name] = Field(default_factory=list, max_length=100)
    hold: BoundsBody = Field(default_factory=lambda: _bounds_body(_DEFAULT.hold))
    queue: BoundsBody = Field(default_factory=lambda: _bounds_body(_DEFAULT.queue))
    retry_after_s: float = Field(default=_DEFAULT.retry_after_s, gt=0, le=86_400)
    connect_timeout_s: float = Field(default=_DEFAULT.connect_timeout_s, gt=0, le=60)
    read_timeout_s: float = Field(default=_DEFAULT.read_timeout_s, gt=0, le=86_400)
    sse_comment_s: float = Field(default=_DEFAULT.sse_comment_s, ge=0, le=3600)
    affinity: AffinityBody | None = None
    max_model_len: int | None = Field(default=None, ge=1, le=1_000_000_000)

    @classmethod
    def of(cls, settings: PoolSettings) -> PoolBody:
        return cls(
            model=settings.model,
            aliases=list(settings.aliases),
            hold=_bounds_body(settings.hold),
            queue=_bounds_body(settings.queue),
            retry_after_s=settings.retry_after_s,
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.read_timeout_s,
            sse_comment_s=settings.sse_comment_s,
            affinity=(
                AffinityBody(**asdict(settings.affinity)) if settings.affinity is not None else None
            ),
            max_model_len=settings.max_model_len,
        )

    def value(self) -> PoolSettings:
        return PoolSettings(
            model=self.model,
            aliases=tuple(dict.fromkeys(a for a in self.aliases if a != self.model)),
            hold=self.hold.value(),
            queue=self.queue.value(),
            retry_after_s=self.retry_after_s,
            connect_timeout_s=self.connect_timeout_s,
            read_timeout_s=self.read_timeout_s,
            sse_comment_s=self.sse_comment_s,
            affinity=self.affinity.value() if self.affinity is not None else None,
            max_model_len=self.max_model_len,
        )


class ExpectBody(_Body):
    """When a node of a model will be ready, as the daemon estimates it now."""

    model: Name
    likely_s: float = Field(ge=0, le=86_400)
    soonest_s: float = Field(ge=0, le=86_400)


class TrustBody(_Body):
    """Who vouches for an endpoint of an https URL, and under which name."""

    authority: Annotated[str, Field(max_length=65_536), AfterValidator(_certificate)]
    host_name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]

    def value(self) -> Trust:
        return Trust(self.authority, self.host_name)


def trust_body(trust: Trust | None) -> TrustBody | None:
    """As it is written down."""
    return TrustBody(**asdict(trust)) if trust is not None else None


class EndpointFields(_Body):
    """One model server."""

    id: Name
    url: Url
    weight: float = Field(default=1.0, gt=0, le=1_000_000)
    max_inflight: int = Field(default=0, ge=0, le=1_000_000)  # 0: no bound
    trust: TrustBody | None = None

    @model_validator(mode="after")
    def _trust_fits(self) -> Self:
        if self.trust is not None and not self.url.startswith("https://"):
            raise ValueError("trust is for an https URL")
        return self

    def value(self) -> Endpoint:
        return Endpoint(
            self.id,
            self.url,
            weight=self.weight,
            max_inflight=self.max_inflight,
            trust=self.trust.value() if self.trust is not None else None,
        )


class EndpointBody(EndpointFields):
    """Add an endpoint to a model's pool, or set it anew and active."""

    model: Name


class EndpointName(_Body):
    """Names an endpoint."""

    model: Name
    id: Name


class EndpointRemoval(EndpointName):
    """Remove an endpoint; `force` even with requests in flight, which then go on uncounted."""

    force: bool = False


class PoolRemoval(_Body):
    """Remove a pool; `force` even with requests in it."""

    model: Name
    force: bool = False


class WaitBody(_Body):
    """Ask to be told of demand newer than `generation`, in one pool or in any."""

    model: Name | None = None
    generation: int = Field(default=0, ge=0)
    boot_id: str | None = None
    timeout_s: float = Field(default=30.0, ge=0, le=300)


class ProbeBody(_Body):
    """One request to be sent to one model server now: a POST of `payload`, a GET without one."""

    url: Url
    path: Annotated[str, Field(pattern=r"^/[!-~]{0,2047}$")]
    payload: dict[str, JsonValue] | None = None
    trust: TrustBody | None = None
    timeout_s: float = Field(default=30.0, gt=0, le=3600)


class SavedEndpoint(EndpointFields):
    """An endpoint in the state file."""

    state: EndpointState = EndpointState.ACTIVE


class SavedPool(_Body):
    """A pool in the state file."""

    settings: PoolBody
    endpoints: list[SavedEndpoint] = Field(default_factory=list)


class SavedState(_Body):
    """The state file."""

    schema_version: int = Field(default=1, ge=1, le=1)
    generation: int = Field(default=0, ge=0)
    pools: list[SavedPool] = Field(default_factory=list)
