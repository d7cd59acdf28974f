"""`autoscaler render-script POLICY OFFER`: the exact script that a node would be created with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoscaler.cli.connection import said_errors
from autoscaler.cloud.mkinf.prices import PricedType, load_prices
from autoscaler.config import CloudSettings, Config
from autoscaler.config_file import read_config, read_policy
from autoscaler.domain.offer import Offer, OfferKey
from autoscaler.errors import ConfigError
from autoscaler.nodes.startup import render, replicas_of

NO_NONCE = "0" * 64


def render_script(
    policy: Annotated[Path, typer.Argument(help="a policy file")],
    offer: Annotated[str, typer.Argument(help="a type, or type@location, as `offers` lists it")],
    config: Annotated[Path, typer.Option(help="config.toml; defaults when there is none")] = Path(
        "config.toml"
    ),
    shutdown: Annotated[bool, typer.Option(help="the shutdown script instead")] = False,
) -> None:
    """Print the startup script that a node of POLICY on OFFER would run. Rents and asks nothing.

    The nonce, which each node has of its own, is shown as zeros.
    """
    with said_errors():
        settings = read_config(config) if config.exists() else _defaults()
        model = read_policy(policy)
        wanted = priced_offer(offer, settings)
        script = render(
            model,
            wanted,
            nonce=NO_NONCE,
            replicas=replicas_of(model, wanted),
            config=settings,
        )
        typer.echo(script.shutdown if shutdown else script.text, nl=False)


def priced_offer(text: str, config: Config) -> Offer:
    """The offer of this name, made of the price list alone: no cloud is asked.

    Raises:
        ConfigError: the price list has no such type; the message names those it has.
    """
    name, _, location = text.partition("@")
    prices = load_prices(config.cloud.prices_file)
    priced = prices.types.get(name)
    if priced is None:
        raise ConfigError(
            f"{name!r} is not in {prices.source}; it has {', '.join(sorted(prices.types))}"
        )
    return _offer(priced, location or "anywhere")


def _offer(priced: PricedType, location: str) -> Offer:
    gpu = priced.gpu
    return Offer(
        key=OfferKey(priced.name, location),
        price_per_hour=priced.price_per_hour,
        gpu=gpu.name if gpu else None,
        gpus=priced.gpus,
        gpu_memory_gb=gpu.memory_gb if gpu else 0,
        vcpu=priced.vcpu,
        ram_gb=priced.ram_gb,
        disk_gb=priced.nvme_gb,
        in_stock=True,
        nvlink_domain=gpu.nvlink_domain if gpu else 1,
    )


def _defaults() -> Config:
    cloud = CloudSettings(owner="renderer", key_file=Path("none"), url="http://127.0.0.1:9")
    return Config.model_validate({"schema": 1, "cloud": cloud})
