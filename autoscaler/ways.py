"""The way to model servers that the config names (`reach`), built."""

from __future__ import annotations

import structlog

from autoscaler.clock import Clock
from autoscaler.config import Config
from autoscaler.errors import ConfigError
from autoscaler.nodes.pki import Authority, open_authority
from autoscaler.nodes.reach import PlainReach, Reach
from autoscaler.nodes.tls_reach import TlsReach

log = structlog.get_logger(__name__)

PLAIN_NOTE = (
    'reach = "public-plain": prompts and answers cross the internet unencrypted; '
    '"tls" and "tunnel" do not need a network of yours either'
)


def authority_of(config: Config, clock: Clock) -> Authority | None:
    """Who vouches for model servers; None where they speak plain HTTP.

    Raises:
        ConfigError: it cannot be read or made.
    """
    return open_authority(config.state_dir, clock.now()) if config.way == "tls" else None


def build_reach(config: Config, authority: Authority | None, clock: Clock) -> Reach:
    """The way to nodes' model servers.

    Raises:
        ConfigError: it cannot be gone here.
    """
    match config.way:
        case "private":
            return PlainReach()
        case "public-plain":
            log.warning("prompts_cross_the_internet_in_plain_text", do=PLAIN_NOTE)
            return PlainReach(public=True)
        case "tls":
            assert authority is not None
            return TlsReach(authority, clock)
        case "tunnel":
            raise ConfigError(
                f'reach: found "{config.way}", allowed: "private", "tls", "public-plain"'
            )
