"""Which container serves a model on a GPU, and the oldest driver it runs with (`presets.toml`)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

from autoscaler.domain.offer import Offer
from autoscaler.errors import ConfigError
from autoscaler.images import parse_image
from autoscaler.nodes.gpus import profile_of
from autoscaler.nodes.startup.pins import with_pin
from autoscaler.policy import Engine, Policy

DOCUMENTED_DRIVER = "535"  # of the cloud's documented VM image


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

    def has(self, image: str) -> bool:
        """Whether this is one of its images, with or without the digest."""
        wanted = parse_image(image)
        return any(wanted.is_same(parse_image(mine)) for mine in self.images.values())


@dataclass(frozen=True, slots=True)
class ServerImage:
    """What a node will run.

    Attributes:
        image: None for a custom script that needs no container.
        min_driver: "0" when nothing is known to be needed.
        choices: the presets of this kind for the offer, with the image that each would run there.
    """

    image: str | None
    min_driver: str
    choices: tuple[tuple[Preset, str], ...]


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


def server_image(
    policy: Policy, offer: Offer, pins: Mapping[str, str] = MappingProxyType({})
) -> ServerImage:
    """Choose what serves `policy` on `offer`: the policy's own image, else the default preset.

    Args:
        pins: the digests that tags stood for when a node first pulled them (`ImagePins.known`).

    Raises:
        ConfigError: no preset fits.
    """
    choices = tuple(
        (preset, image)
        for preset in presets().get(policy.engine, ())
        if (image := preset.image(offer))
    )
    own = policy.server
    if own.image is not None:
        return ServerImage(with_pin(own.image, pins), needed_driver(policy) or "0", choices)
    if policy.engine is Engine.CUSTOM:
        return ServerImage(None, own.min_driver or "0", ())
    if not choices:
        raise ConfigError(
            f'engine = "{policy.engine}" has no preset for {offer.gpu or "machines without GPU"} '
            f"({offer.key.type}): name an image in server.image"
        )
    preset, image = choices[0]
    return ServerImage(with_pin(image, pins), own.min_driver or preset.min_driver, choices)


def needed_driver(policy: Policy) -> str | None:
    """The oldest driver that a policy's image runs with on a GPU; None when nobody has said."""
    own, known = policy.server, presets().get(policy.engine, ())
    if own.min_driver is not None:
        return own.min_driver
    if own.image is not None:
        return next((preset.min_driver for preset in known if preset.has(own.image)), None)
    return known[0].min_driver if known else None


def driver_note(policy: Policy) -> str | None:
    """What an operator should know of the driver before anything is rented, None when all is well."""
    if not policy.hardware.gpus:
        return None
    least = needed_driver(policy)
    if least is None:
        if policy.server.image is None:
            return None
        return (
            "the least NVIDIA driver of server.image is not known, so it is not checked before the pull: "
            "set server.min_driver"
        )
    if _release(least) <= _release(DOCUMENTED_DRIVER):
        return None
    fitting = [
        f"{preset.name} ({', '.join(dict.fromkeys(preset.images.values()))})"
        for preset in presets().get(policy.engine, ())
        if _release(preset.min_driver) <= _release(DOCUMENTED_DRIVER)
    ]
    return (
        f"needs NVIDIA driver {least}, and the documented VM image has {DOCUMENTED_DRIVER}: a node with an older "
        f"one fails before it pulls anything; runs there: {', '.join(fitting) or 'no preset'}"
    )


def _release(version: str) -> int:
    return int(version.split(".")[0])
