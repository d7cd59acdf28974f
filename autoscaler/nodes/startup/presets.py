"""Which container serves a model on a GPU, and the oldest driver it runs with (`presets.toml`)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from autoscaler.domain.offer import Offer
from autoscaler.errors import ConfigError
from autoscaler.nodes.gpus import profile_of
from autoscaler.policy import Engine, Policy

_MOVING = frozenset({"latest", "nightly", "dev", "main", "master", "edge", "stable"})


@dataclass(frozen=True, slots=True)
class Preset:
    """A pinned image of one server kind.

    Attributes:
        images: image by compute capability, "gpu" for any GPU, "cpu" for none.
        min_driver: the oldest NVIDIA driver it runs with.
    """

    name: str
    min_driver: str
    checked: str
    images: Mapping[str, str]

    def image(self, offer: Offer) -> str | None:
        """The image for an offer's GPU, or None when there is none."""
        if offer.gpus == 0:
            return self.images.get("cpu")
        profile = profile_of(offer.gpu) if offer.gpu else None
        exact = self.images.get(profile.compute_capability) if profile else None
        return exact or self.images.get("gpu")


@dataclass(frozen=True, slots=True)
class ServerImage:
    """What a node will run.

    Attributes:
        image: None for a custom script that needs no container.
        min_driver: "0" when nothing is known to be needed.
        choices: other presets of this kind for the offer, as (least driver, image).
    """

    image: str | None
    min_driver: str
    choices: tuple[tuple[str, str], ...]


@cache
def presets() -> Mapping[Engine, tuple[Preset, ...]]:
    """Read every preset, by server kind, the default first."""
    text = resources.files("autoscaler.nodes.startup").joinpath("presets.toml").read_text("utf-8")
    return {
        Engine(kind): tuple(
            Preset(row["name"], row["min_driver"], row["checked"], row["images"]) for row in rows
        )
        for kind, rows in tomllib.loads(text).items()
    }


def server_image(policy: Policy, offer: Offer) -> ServerImage:
    """Choose what serves `policy` on `offer`: the policy's own image, else the default preset.

    Raises:
        ConfigError: no preset fits, or the image's tag moves.
    """
    known = presets().get(policy.engine, ())
    choices = tuple((p.min_driver, image) for p in known if (image := p.image(offer)))
    own = policy.server
    if own.image is not None:
        refuse_moving_tag(own.image)
        preset = next((p for p in known if own.image in p.images.values()), None)
        least = own.min_driver or (preset.min_driver if preset else "0")
        return ServerImage(own.image, least, choices)
    if policy.engine is Engine.CUSTOM:
        return ServerImage(None, own.min_driver or "0", ())
    if not choices:
        raise ConfigError(
            f'engine = "{policy.engine}" has no preset for {offer.gpu or "machines without GPU"} '
            f"({offer.key.type}): name an image in server.image"
        )
    least, image = choices[0]
    return ServerImage(image, own.min_driver or least, choices)


def refuse_moving_tag(image: str) -> None:
    """Refuse an image whose content may change under the same name.

    Raises:
        ConfigError: no tag and no digest, or a tag such as `latest`.
    """
    name, _, digest = image.partition("@")
    if digest:
        return
    tag = name.rpartition("/")[2].partition(":")[2]
    if not tag or tag in _MOVING or tag.startswith("latest"):
        raise ConfigError(
            f"server.image {image!r} may change without notice: "
            "name a version's tag or a digest (name@sha256:…)"
        )
