"""Which content each image's tag stood for when a node first pulled it, so that all later nodes run the same.

A tag may be moved by whoever owns the repository; a digest cannot. Images whose names bear a digest need nothing of
this. What is kept is one small fact of the deployment in the store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Protocol

import structlog

from autoscaler.images import Image, parse_image

log = structlog.get_logger(__name__)

_KEY = "image_pins"
_MOST = 256
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Facts(Protocol):
    """What it needs of the store."""

    async def meta(self, key: str) -> str | None: ...

    async def set_meta(self, key: str, value: str) -> None: ...


class ImagePins:
    """Remembers the digest of each tag."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._known: dict[str, str] = {}

    @property
    def known(self) -> Mapping[str, str]:
        """Digest, 64 hex digits, by the image's name with its tag."""
        return self._known

    async def load(self) -> None:
        """Read what earlier daemons learned.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        found = json.loads(await self._facts.meta(_KEY) or "{}")
        self._known = {
            name: digest
            for name, digest in found.items()
            if isinstance(digest, str) and _DIGEST.fullmatch(digest)
        }

    async def learn(self, image: str, digest: str) -> None:
        """A node has pulled this image and serves with it: later ones get the same. The first word counts.

        Raises:
            StoreUnavailable: it cannot be kept.
        """
        name = parse_image(image)
        if name.digest is not None or str(name) in self._known or len(self._known) >= _MOST:
            return
        known = {**self._known, str(name): digest}
        await self._facts.set_meta(_KEY, json.dumps(known, sort_keys=True))
        self._known = known
        log.info("image_pinned", image=str(name), digest=digest)


def with_pin(image: str, pins: Mapping[str, str]) -> str:
    """The image's name with the digest it is pinned to, or as it is."""
    name = parse_image(image)
    digest = pins.get(str(name))
    if name.digest is not None or digest is None:
        return image
    return str(Image(name.repository, name.tag, digest))
