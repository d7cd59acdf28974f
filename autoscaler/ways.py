"""The way to model servers that the config names (`reach`), built."""

from __future__ import annotations

from autoscaler.config import Config
from autoscaler.errors import ConfigError
from autoscaler.nodes.reach import PlainReach, Reach


def build_reach(config: Config) -> Reach:
    """The way to nodes' model servers.

    Raises:
        ConfigError: it cannot be gone here.
    """
    match config.way:
        case "private":
            return PlainReach()
        case "public-plain":
            return PlainReach(public=True)
        case "tls" | "tunnel":
            raise ConfigError(
                f'reach: found "{config.way}", this version has "private" and "public-plain"'
            )
