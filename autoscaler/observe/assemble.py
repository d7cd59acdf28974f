"""From a policy and the config to a model's feed: which sources there are, and what role each has."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from datetime import timedelta
from functools import partial
from pathlib import Path

import aiohttp

from autoscaler.balance.haproxy_channel import Where
from autoscaler.config import Config, HaproxySettings
from autoscaler.domain.ids import slug
from autoscaler.errors import ConfigError
from autoscaler.observe.dialect import Dialect
from autoscaler.observe.feed import Feeder, FeedSettings, SignalFeed
from autoscaler.observe.gateway import GatewaySource
from autoscaler.observe.haproxy import HaproxySource, Look, by_page, by_socket
from autoscaler.observe.latency import LatencySettings
from autoscaler.observe.llamacpp import LLAMA_CPP
from autoscaler.observe.mapping import TEI_MAPPING, mapped
from autoscaler.observe.merge import Role
from autoscaler.observe.pages import PageSettings, PageSource
from autoscaler.observe.prometheus import PrometheusSource, default_queries
from autoscaler.observe.protocol import Source
from autoscaler.observe.sglang import SGLANG
from autoscaler.observe.vllm import VLLM
from autoscaler.policy import Engine, Policy
from autoscaler.policy import Source as SourceSettings

_LEAST_HORIZON = timedelta(hours=2)
_MOST_KEPT = 4096

DIALECTS: dict[Engine, Dialect] = {
    Engine.VLLM: VLLM,
    Engine.SGLANG: SGLANG,
    Engine.LLAMA_CPP: LLAMA_CPP,
    Engine.EMBEDDING: mapped("embedding", TEI_MAPPING),
}


SocketOf = Callable[[HaproxySettings], Where]
Overlooked = Callable[[], Collection[str]]  # names of balancers that are not waited for now


def build_feed(
    policy: Policy,
    config: Config,
    session: aiohttp.ClientSession,
    overlooked: Overlooked = frozenset,
    sockets: SocketOf = lambda haproxy: haproxy.socket,
    nodes: aiohttp.ClientSession | None = None,
) -> SignalFeed:
    """Build the feed of one model. Opens nothing yet.

    Args:
        session: for pages and queries; it stays the caller's to close. `trust_env` must be off.
        nodes: for the pages of nodes, where these show certificates of our own.

    Raises:
        ConfigError: a source lacks what it needs, or a mapping or query cannot be read.
    """
    feeders: list[Feeder] = []
    for settings in _sources(policy, config):
        is_node_page = settings.kind in ("engine", "page")
        through = nodes if nodes is not None and is_node_page else session
        for source, role, balancer in _build(settings, policy, config, through, sockets):
            if any(source.name == other.source.name for other in feeders):
                raise ConfigError(
                    f"signals.sources: two are called {source.name!r}: give each a name of its own"
                )
            feeders.append(
                Feeder(
                    source,
                    role,
                    settings.timeout.total_seconds(),
                    settings.max_age or config.timings.signal_max_age,
                    partial(_is_among, balancer, overlooked),
                )
            )
    return SignalFeed(feeders, _feed_settings(policy, config))


def _is_among(balancer: str | None, overlooked: Overlooked) -> bool:
    return balancer in overlooked()


def _sources(policy: Policy, config: Config) -> tuple[SourceSettings, ...]:
    """The policy's sources; where it names none, the balancer, the activator and the engines."""
    if "sources" in policy.signals.model_fields_set:
        return policy.signals.sources
    sources = policy.signals.sources
    if policy.engine not in DIALECTS:
        sources = tuple(source for source in sources if source.kind != "engine")
    if config.balancer == "haproxy":
        return (SourceSettings(kind="haproxy"), *sources)
    return sources


def _build(
    settings: SourceSettings,
    policy: Policy,
    config: Config,
    session: aiohttp.ClientSession,
    sockets: SocketOf,
) -> list[tuple[Source, Role, str | None]]:
    """A source's parts, each with its role and the balancer of the config that it looks at."""
    name = settings.name or settings.kind
    match settings.kind:
        case "gateway":
            gateway = GatewaySource(
                name,
                policy.model,
                Path(settings.socket) if settings.socket else config.gateway_control,
                _latency(policy),
                timeout_s=settings.timeout.total_seconds(),
                window_s=policy.signals.window.total_seconds(),
                interval_s=config.timings.reconcile.total_seconds(),
            )
            return [(gateway, Role.FRONT, None)]
        case "engine" | "page":
            page = PageSource(
                name,
                _dialect(settings, policy),
                policy.served_name,
                session,
                _page_settings(settings, policy, config),
            )
            return [(page, Role.INSIDE, None)]
        case "haproxy":
            return [
                (source, Role.FRONT, balancer)
                for source, balancer in _haproxies(name, settings, policy, config, session, sockets)
            ]
        case "prometheus":
            if settings.url is None:
                raise ConfigError('signals.sources: kind = "prometheus" needs a url')
            prometheus = PrometheusSource(
                name,
                settings.url,
                settings.queries or default_queries(policy),
                policy.served_name,
                session,
                timeout_s=settings.timeout.total_seconds(),
                window=policy.signals.window,
                quantile_window=policy.signals.quantile_window,
            )
            return [(prometheus, Role.WHOLE, None)]


def _haproxies(
    name: str,
    settings: SourceSettings,
    policy: Policy,
    config: Config,
    session: aiohttp.ClientSession,
    sockets: SocketOf,
) -> list[tuple[HaproxySource, str | None]]:
    """One source for the socket or page that the policy names, else one for each HAProxy of the config."""
    backend = settings.backend or slug(policy.model)
    timeout_s = settings.timeout.total_seconds()
    looks: list[tuple[str, Look, str | None]]
    if settings.socket is not None:
        looks = [(name, by_socket(Path(settings.socket), backend), None)]
    elif settings.url is not None:
        url = settings.url.rstrip("/") + (settings.path or "/metrics")
        looks = [(name, by_page(session, url, backend, timeout_s), None)]
    else:
        looks = [
            (
                name if len(config.haproxy) == 1 else f"{name}-{haproxy.name}",
                by_socket(sockets(haproxy), haproxy.backends.get(policy.model, backend)),
                haproxy.name,
            )
            for haproxy in config.haproxy
        ]
    if not looks:
        raise ConfigError(
            'signals.sources: kind = "haproxy" needs a socket, the url of its exporter, or a '
            "[[haproxy]] in the config"
        )
    return [
        (
            HaproxySource(
                place,
                look,
                timeout_s=timeout_s,
                window_s=policy.signals.window.total_seconds(),
                interval_s=config.timings.reconcile.total_seconds(),
            ),
            balancer,
        )
        for place, look, balancer in looks
    ]


def _dialect(settings: SourceSettings, policy: Policy) -> Dialect:
    if settings.kind == "page" or settings.mapping:
        if not settings.mapping:
            raise ConfigError('signals.sources: kind = "page" needs a mapping')
        return mapped(settings.name or settings.kind, settings.mapping)
    known = DIALECTS.get(policy.engine)
    if known is None:
        raise ConfigError(
            'signals.sources: kind = "engine" knows no page of engine = "custom": use '
            'kind = "page" with a mapping, or leave it out'
        )
    return known


def _latency(policy: Policy) -> LatencySettings:
    return LatencySettings(policy.signals.quantile_window, policy.signals.min_observations)


def _page_settings(settings: SourceSettings, policy: Policy, config: Config) -> PageSettings:
    is_bounded = settings.kind == "engine" and policy.engine in (Engine.VLLM, Engine.SGLANG)
    return PageSettings(
        path=settings.path or policy.server.metrics_path,
        timeout_s=settings.timeout.total_seconds(),
        interval_s=config.timings.reconcile.total_seconds(),
        window_s=policy.signals.window.total_seconds(),
        latency=_latency(policy),
        max_age_s=(settings.max_age or config.timings.signal_max_age).total_seconds(),
        max_running=policy.server.max_num_seqs if is_bounded else None,
    )


def _feed_settings(policy: Policy, config: Config) -> FeedSettings:
    scaling = policy.scaling
    needed = max(scaling.peak_memory, scaling.stabilization, scaling.zero_after)
    horizon = max(needed, _LEAST_HORIZON)
    interval = config.timings.reconcile
    # at the demo's pace two hours would be many thousands: then only what decisions need is kept
    keep = max(min(math.ceil(horizon / interval), _MOST_KEPT), math.ceil(needed / interval)) + 1
    return FeedSettings(
        model=policy.name,
        window=policy.signals.window,
        keep=keep,
        horizon=horizon,
        ttft_target_s=policy.slo.ttft.total_seconds(),
        itl_target_s=None if policy.slo.itl is None else policy.slo.itl.total_seconds(),
    )
