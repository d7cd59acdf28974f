"""The catalogue file: what comes with the emulator, and what is refused in another."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from autoscaler.emulator.catalogue import CatalogueInvalid, load_catalogue, parse_catalogue

GOOD = """
disk_gb_hour = "0.1"
locations = ["here"]
[gpus]
big = { usd_per_hour = "1.50", memory_gb = 80, gpu_type = "BIG-80GB", profile = "big" }
[types."big.2x"]
gpu = "big"
gpus = 2
vcpu = 8
ram_gb = 64
stock = { here = 3 }
[[images]]
name = "plain"
fits = "pcie"
locations = ["here"]
"""


def test_the_emulators_own_catalogue_prices_a_type_by_its_gpus() -> None:
    catalogue = load_catalogue()

    prices = {name: one.usd_per_hour for name, one in catalogue.types.items()}
    assert prices["l40s-48gb.10x"] == Decimal("12.50")
    assert prices["a100-80gb.4x"] == Decimal("7.24")
    assert prices["a40.8x"] == Decimal("8.80")
    assert catalogue.disk_gb_hour == Decimal("0.00013")
    assert len([one for one in catalogue.types.values() if one.gpu]) == 18


def test_another_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.toml"
    path.write_text(GOOD)

    catalogue = load_catalogue(path)

    assert catalogue.types["big.2x"].usd_per_hour == Decimal("3.00")
    assert catalogue.types["big.2x"].stock == {"here": 3}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('disk_gb_hour = "0.1"', "", "disk_gb_hour"),
        ('gpu = "big"', 'gpu = "small"', "types.big.2x.gpu"),
        ("gpus = 2", "gpus = 0", "types.big.2x.gpus"),
        ("here = 3", "there = 3", "there"),
        ("here = 3", "here = -3", "stock"),
        ('fits = "pcie"', 'fits = "all"', "fits"),
        ("vcpu = 8", "vpcu = 8", "vpcu"),
        ('gpu = "big"\ngpus = 2', "", "usd_per_hour"),
        ("[gpus]", "[gpus", "TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key(old: str, new: str, words: str) -> None:
    with pytest.raises(CatalogueInvalid, match=words) as refused:
        parse_catalogue(GOOD.replace(old, new), "mine.toml")

    assert "mine.toml" in str(refused.value)
