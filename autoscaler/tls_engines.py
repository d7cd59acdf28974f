"""Which model servers speak TLS themselves, as `reach = "tls"` needs."""

from __future__ import annotations

import re

from autoscaler.policy import Engine, Policy

_SGLANG_SINCE = (0, 5, 10)  # its --ssl-keyfile came in February 2026
_VERSION = re.compile(r":v?(\d+)\.(\d+)\.(\d+)")


def why_no_tls(policy: Policy) -> str | None:
    """What keeps a policy's server from speaking TLS, and what would not; None when it can.

    An operator's own script is believed: it is told where the certificate is.
    """
    match policy.engine:
        case Engine.VLLM | Engine.CUSTOM:
            return None
        case Engine.SGLANG:
            if _is_recent(policy.server.image):
                return None
            needed = ".".join(map(str, _SGLANG_SINCE))
            return (
                f'server.image: found {policy.server.image or "none"}; engine = "sglang" speaks TLS from {needed} '
                f"on: name such an image (docs/startup-scripts.md), {_OR}"
            )
        case _:
            return (
                f'engine: found "{policy.engine}", whose server does not speak TLS; allowed with reach = "tls": '
                f'"vllm", "sglang", "custom"; {_OR}'
            )


_OR = 'or set reach = "tunnel" (over SSH) or "private" in config.toml'


def _is_recent(image: str | None) -> bool:
    """Whether an image's tag says a version that has the options; one that says none is not believed."""
    found = _VERSION.search(image or "")
    return found is not None and tuple(map(int, found.groups())) >= _SGLANG_SINCE
