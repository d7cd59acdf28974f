"""What the emulated cloud rents: types, prices, stock, quota, images; read from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU model: `family` is its key in the file, by which quota is counted."""

    family: str
    profile: str
    gpu_type: str
    description: str
    memory_gb: int
    usd_per_hour: Decimal
    quota: int


@dataclass(frozen=True, slots=True)
class MachineType:
    """A machine type; `gpu` is None for CPU types, `stock` is machines per location."""

    name: str
    gpu: Gpu | None
    gpus: int
    vcpu: int
    ram_gb: int
    nvme_gb: int
    usd_per_hour: Decimal
    in_specs: bool
    stock: Mapping[str, int]

    @property
    def is_sxm(self) -> bool:
        return self.gpu is not None and "SXM" in self.gpu.gpu_type.upper()


@dataclass(frozen=True, slots=True)
class Image:
    """A disk image; `fits` is "pcie", "sxm" or "cpu"."""

    name: str
    description: str
    tags: tuple[str, ...]
    created_at: str
    fits: str
    locations: tuple[str, ...]

    def boots_on(self, machine_type: MachineType) -> bool:
        if machine_type.gpu is None:
            return self.fits != "sxm"
        return self.fits == ("sxm" if machine_type.is_sxm else "pcie")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything on offer."""

    currency: str
    disk_gb_hour: Decimal
    os_disk_gb: int
    locations: tuple[str, ...]
    gpus: Mapping[str, Gpu]
    types: Mapping[str, MachineType]
    images: Mapping[str, Image]

    def image(self, text: str) -> Image | None:
        """Find an image by `name` or `name:tag`."""
        name, _, tag = text.partition(":")
        found = self.images.get(name)
        return found if found is not None and (not tag or tag in found.tags) else None


class CatalogueInvalid(ValueError):
    """The file is not a catalogue. The message has the file, the key and what is wrong."""


def load_catalogue(path: Path | None = None) -> Catalogue:
    """Read a catalogue file; None reads the one that comes with the emulator.

    Raises:
        CatalogueInvalid: unreadable, not TOML, or not of the format.
    """
    try:
        if path is None:
            text = resources.files(__package__).joinpath("catalogue.toml").read_text("utf-8")
        else:
            text = path.read_text("utf-8")
        return parse_catalogue(text, str(path or "catalogue.toml"))
    except (OSError, UnicodeDecodeError) as exc:
        raise CatalogueInvalid(f"{path}: cannot be read: {exc}") from exc


def parse_catalogue(text: str, source: str) -> Catalogue:
    """Turn a catalogue's text into values; `source` names it in errors."""
    try:
        file = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise CatalogueInvalid(f"{source}: not TOML: {exc}") from exc
    except ValidationError as exc:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
            for error in exc.errors(include_url=False)
        )
        raise CatalogueInvalid(f"{source}: {faults}") from exc
    return _build(file, source)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Money = Annotated[Decimal, Field(ge=0)]


class _Gpu(_Table):
    usd_per_hour: _Money
    memory_gb: Annotated[int, Field(gt=0)]
    gpu_type: str
    profile: str
    quota: Annotated[int, Field(ge=0)] = 32
    description: str = ""


class _Type(_Table):
    gpu: str | None = None
    gpus: Annotated[int, Field(ge=0)] = 0
    vcpu: Annotated[int, Field(gt=0)]
    ram_gb: Annotated[int, Field(gt=0)]
    nvme_gb: Annotated[int, Field(ge=0)] = 0
    usd_per_hour: _Money | None = None
    in_specs: bool = True
    stock: dict[str, Annotated[int, Field(ge=0)]] = {}


class _Image(_Table):
    name: str
    description: str = ""
    tags: tuple[str, ...] = ()
    created_at: str = "2023-11-16T22:02:00Z"
    fits: Literal["pcie", "sxm", "cpu"]
    locations: tuple[str, ...]


class _File(_Table):
    currency: str = "USD"
    disk_gb_hour: _Money
    os_disk_gb: Annotated[int, Field(gt=0)] = 128
    locations: Annotated[tuple[str, ...], Field(min_length=1)]
    gpus: dict[str, _Gpu] = {}
    types: Annotated[dict[str, _Type], Field(min_length=1)]
    images: Annotated[tuple[_Image, ...], Field(min_length=1)]


def _build(file: _File, source: str) -> Catalogue:
    gpus = {name: Gpu(family=name, **gpu.model_dump()) for name, gpu in file.gpus.items()}
    types = {name: _build_type(name, row, gpus, source) for name, row in file.types.items()}
    for name, row in file.types.items():
        for location in row.stock.keys() - set(file.locations):
            raise CatalogueInvalid(f"{source}: types.{name}.stock: no location {location!r}")
    return Catalogue(
        currency=file.currency,
        disk_gb_hour=file.disk_gb_hour,
        os_disk_gb=file.os_disk_gb,
        locations=file.locations,
        gpus=gpus,
        types=types,
        images={image.name: Image(**image.model_dump()) for image in file.images},
    )


def _build_type(name: str, row: _Type, gpus: Mapping[str, Gpu], source: str) -> MachineType:
    where = f"{source}: types.{name}"
    if row.gpu is None:
        if row.gpus or row.usd_per_hour is None:
            raise CatalogueInvalid(f"{where}: a type without gpu needs usd_per_hour and no gpus")
        gpu, price = None, row.usd_per_hour
    else:
        if row.gpu not in gpus:
            raise CatalogueInvalid(f"{where}.gpu: {row.gpu!r} is none of {', '.join(gpus)}")
        if row.gpus < 1:
            raise CatalogueInvalid(f"{where}.gpus: must be at least 1")
        gpu = gpus[row.gpu]
        own = row.usd_per_hour
        price = gpu.usd_per_hour * row.gpus if own is None else own
    return MachineType(
        name=name,
        gpu=gpu,
        gpus=row.gpus,
        vcpu=row.vcpu,
        ram_gb=row.ram_gb,
        nvme_gb=row.nvme_gb,
        usd_per_hour=price,
        in_specs=row.in_specs,
        stock=dict(row.stock),
    )
