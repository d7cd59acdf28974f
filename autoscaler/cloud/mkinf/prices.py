"""The price list: what each type costs and should be made of. mkinf's API tells no prices.

`autoscaler/data/mkinf_prices.toml` is ours; `cloud.prices_file` in the config replaces it whole.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from autoscaler.domain.money import Money
from autoscaler.errors import ConfigError

_OURS: Final = "mkinf_prices.toml"


@dataclass(frozen=True, slots=True)
class PricedGpu:
    """One GPU model. `gpu_types` are the names that specs may call it by."""

    name: str
    price_per_hour: Money
    memory_gb: int
    gpu_types: tuple[str, ...]
    nvlink_domain: int

    @property
    def is_sxm(self) -> bool:
        return "sxm" in self.name


@dataclass(frozen=True, slots=True)
class PricedType:
    """One VM type; `price_per_hour` is without its OS disk."""

    name: str
    gpu: PricedGpu | None
    gpus: int
    vcpu: int
    ram_gb: int
    nvme_gb: int
    price_per_hour: Money


@dataclass(frozen=True, slots=True)
class PriceList:
    """All prices, and where they come from, for messages."""

    source: str
    disk_gb_hour: Money
    os_disk_gb: int
    gpus: Mapping[str, PricedGpu]
    types: Mapping[str, PricedType]

    @property
    def os_disk_per_hour(self) -> Money:
        return self.disk_gb_hour * self.os_disk_gb

    def gpu_of(self, gpu_type: str) -> PricedGpu | None:
        """Find a GPU by the name that specs use."""
        return next((gpu for gpu in self.gpus.values() if gpu_type in gpu.gpu_types), None)


def load_prices(path: Path | None = None) -> PriceList:
    """Read a price list, ours when no path is given.

    Raises:
        ConfigError: it cannot be read, or a price is missing, ill-typed or contradicts itself.
    """
    source = str(path) if path is not None else f"the built-in price list ({_OURS})"
    try:
        text = _own_data(_OURS) if path is None else path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as exc:
        raise ConfigError(f"{source}: cannot be read: {exc.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{source}: not TOML: {exc}") from None
    try:
        read = _PriceFile.model_validate(document)
    except ValidationError as exc:
        errors = exc.errors(include_input=False, include_url=False)
        lines = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in errors)
        raise ConfigError(f"{source}: " + "; ".join(lines)) from None
    return _price_list(source, read)


def _price_list(source: str, read: _PriceFile) -> PriceList:
    domains = _nvlink_domains()
    gpus = {
        name: PricedGpu(
            name,
            Money(gpu.usd_per_hour),
            gpu.memory_gb,
            gpu.gpu_types,
            domains.get(name, 1),
        )
        for name, gpu in read.gpus.items()
    }
    problems: list[str] = []
    types: dict[str, PricedType] = {}
    for name, each in read.types.items():
        gpu = gpus.get(each.gpu) if each.gpu is not None else None
        problems += _contradictions(name, each, gpu)
        types[name] = PricedType(
            name,
            gpu,
            each.gpus,
            each.vcpu,
            each.ram_gb,
            each.nvme_gb,
            Money(each.usd_per_hour),
        )
    if problems:
        raise ConfigError(f"{source}: " + "; ".join(problems))
    return PriceList(source, Money(read.disk_gb_hour), read.os_disk_gb, gpus, types)


def _contradictions(name: str, each: _TypeRow, gpu: PricedGpu | None) -> list[str]:
    if each.gpu is not None and gpu is None:
        return [f'types."{name}".gpu: no {each.gpu!r} under [gpus]']
    if (gpu is None) != (each.gpus == 0):
        return [f'types."{name}": gpu and gpus belong together (gpus = 0 without a gpu)']
    if gpu is not None and (due := gpu.price_per_hour * each.gpus).usd != each.usd_per_hour:
        return [
            f'types."{name}".usd_per_hour is {each.usd_per_hour}, but {each.gpus} x'
            f" {gpu.price_per_hour.usd} ({gpu.name}) is {due.usd}"
        ]
    return []


def _nvlink_domains() -> dict[str, int]:
    """Read how many GPUs of each model are joined by NVLink, from the GPU profiles."""
    profiles = tomllib.loads(_own_data("gpu_profiles.toml")).get("gpu", {})
    return {name: int(profile.get("nvlink_domain", 1)) for name, profile in profiles.items()}


def _own_data(name: str) -> str:
    return resources.files("autoscaler").joinpath("data", name).read_text(encoding="utf-8")


def _as_money(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('money is text, such as "1.25"')
    return value


_Usd = Annotated[Decimal, BeforeValidator(_as_money), Field(gt=0, le=10_000, allow_inf_nan=False)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _GpuRow(_Row):
    usd_per_hour: _Usd
    memory_gb: Annotated[int, Field(gt=0)]
    gpu_types: tuple[str, ...]


class _TypeRow(_Row):
    gpu: str | None = None
    gpus: Annotated[int, Field(ge=0, le=64)]
    vcpu: Annotated[int, Field(gt=0)]
    ram_gb: Annotated[int, Field(gt=0)]
    nvme_gb: Annotated[int, Field(ge=0)] = 0
    gbps: Annotated[int, Field(ge=0)] = 0
    usd_per_hour: _Usd


class _PriceFile(_Row):
    currency: Literal["USD"]
    disk_gb_hour: _Usd
    os_disk_gb: Annotated[int, Field(gt=0)] = 128
    gpus: dict[str, _GpuRow]
    types: dict[str, _TypeRow]
