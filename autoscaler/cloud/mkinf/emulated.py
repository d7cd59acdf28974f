"""Whether an endpoint on loopback is the emulator: it has pages of its own, which no cloud has.

A URL on loopback may as well be a tunnel to the real API. The question is asked without the key.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import orjson

from autoscaler.cloud.mkinf.settings import MkinfSettings
from autoscaler.cloud.mkinf.transport import HttpTransport, Request, Response
from autoscaler.errors import CloudUnavailable

_HEALTH: Final = "/_emulator/health"


async def why_no_emulator(settings: MkinfSettings) -> str | None:
    """Say why what listens at `settings.url` is not the emulator, None when it is.

    Raises:
        CloudUnavailable, OutcomeUnknown: there was no answer that says either. Ask again.
    """
    parts = urlsplit(settings.url)
    root = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
    transport = HttpTransport(replace(settings, url=root))
    try:
        response = await transport.send(
            Request(
                method="GET",
                target=_HEALTH,
                headers={"Accept": "application/json"},
                body=None,
                timeout_s=settings.answer_timeout_s,
            )
        )
    finally:
        await transport.close()
    if response.status == 429 or response.status >= 500:
        raise CloudUnavailable(f"GET {_HEALTH}: {response.status}")
    if response.status != 200:
        return f"GET {_HEALTH} is answered by {response.status}"
    return None if _is_its_own(response) else f"GET {_HEALTH} is answered by another program"


def _is_its_own(response: Response) -> bool:
    try:
        told = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(told, dict) and "time_factor" in told and "project_id" in told
