"""Names of container images: taken apart, and refused where what they stand for may change."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?P<repository>{_PART}(?::\d{{1,5}}(?=/))?(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(?:@sha256:(?P<digest>[0-9a-f]{64}))?"
)
_LONGEST = 400
_MOVING = frozenset({"latest", "nightly", "dev", "main", "master", "edge", "stable"})
_EXAMPLE = '"vllm/vllm-openai:v0.8.5@sha256:6cf9…"'


@dataclass(frozen=True, slots=True)
class Image:
    """A container image by name.

    Attributes:
        repository: the registry, unless it is Docker Hub, and the path.
        digest: of its content, 64 hex digits; with it the tag is a comment.
    """

    repository: str
    tag: str | None
    digest: str | None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@sha256:{self.digest}" if self.digest else "")

    def is_same(self, other: Image) -> bool:
        """Whether both names stand for one image, as far as names tell."""
        if self.repository != other.repository:
            return False
        if self.digest and other.digest:
            return self.digest == other.digest
        return self.tag is not None and self.tag == other.tag


def parse_image(text: str) -> Image:
    """Read `name`, `name:tag`, `name@sha256:…` or `name:tag@sha256:…`.

    Raises:
        ValueError: not of this form.
    """
    match = _REFERENCE.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"no name of a container image; write one such as {_EXAMPLE}")
    return Image(match["repository"], match["tag"], match["digest"])


def pinned(text: str) -> Image:
    """Read the name of an image that stays what it is: a version's tag, better with its digest.

    Raises:
        ValueError: another form, or no tag and no digest, or a tag that moves, such as `latest`.
    """
    image = parse_image(text)
    tag = image.tag or "latest"
    if image.digest is None and (tag in _MOVING or tag.startswith("latest")):
        found = f"the tag {image.tag!r}" if image.tag else "a name without a tag"
        raise ValueError(
            f"{found} may stand for another image tomorrow: write a version's tag with its digest, such as "
            f"{_EXAMPLE} (`docker image inspect` shows it under RepoDigests), or leave server.image out: "
            "every engine's preset is pinned"
        )
    return image
