"""config.toml's durations: the documents' figures by default, floors, and what must outlast what."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from autoscaler.cloud.mkinf.connect import settings_of
from autoscaler.config import CloudSettings, Config
from autoscaler.config_file import read_config
from autoscaler.errors import ConfigError
from autoscaler.form import below_floor
from autoscaler.quantity import show_duration

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
REAL = """schema = 1
[cloud]
owner = "abcdefgh"
key_file = "key"
{cloud}
[limits]
usd_per_hour = 10
usd_per_month = 900
nodes = 8
{limits}
[firewall]
sources = ["198.51.100.7/32"]
[timings]
{timings}
"""


def real(directory: Path, *, cloud: str = "", limits: str = "", timings: str = "") -> Path:
    path = directory / "config.toml"
    path.write_text(REAL.format(cloud=cloud, limits=limits, timings=timings))
    return path


def complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        read_config(path)
    return str(refused.value)


def test_a_config_that_says_nothing_has_the_figures_of_the_protocols(tmp_path: Path) -> None:
    config = read_config(real(tmp_path))

    assert config.timings.clock_jump == timedelta(seconds=2)
    assert config.timings.lease_time == timedelta(seconds=30)
    assert config.cloud.connect_timeout == timedelta(seconds=5)
    assert config.cloud.answer_timeout == timedelta(seconds=10)
    assert config.cloud.create_timeout == timedelta(seconds=12)


@pytest.mark.parametrize(
    ("table", "line", "said"),
    [
        (
            "cloud",
            'connect_timeout = "500ms"',
            "cloud.connect_timeout: found 500ms, the least is 1s",
        ),
        ("cloud", 'create_timeout = "1s"\nconnect_timeout = "1s"', "the least is 5s"),
        ("limits", 'launch_window = "1s"', "limits.launch_window: found 1s, the least is 1m"),
        ("timings", 'clock_jump = "100ms"', "timings.clock_jump: found 100ms, the least is 1s"),
        ("timings", 'start_caution = "5s"', "timings.start_caution: found 5s, the least is 1m"),
    ],
)
def test_a_real_cloud_refuses_a_duration_below_its_floor_on_its_line(
    tmp_path: Path, table: str, line: str, said: str
) -> None:
    path = real(tmp_path, **{table: line})

    text = complaint(path)

    assert said in text
    assert "only an emulator on loopback" in text
    number = path.read_text().splitlines().index(line.splitlines()[0]) + 1
    assert text.startswith(f"{path}:{number}: ")


def test_the_least_lease_follows_from_the_create_timeout(tmp_path: Path) -> None:
    slow = 'create_timeout = "30s"'

    text = complaint(real(tmp_path, cloud=slow))
    config = read_config(real(tmp_path, cloud=slow, timings='lease_time = "48s"'))

    assert "timings.lease_time: found 30s, the least is 48s" in text
    assert "cloud.create_timeout is 30s" in text
    assert config.cloud.create_timeout < config.timings.lease_time * 2 / 3


def test_a_lease_that_one_lost_renewal_would_end_is_refused(tmp_path: Path) -> None:
    text = complaint(real(tmp_path, timings='lease_renew = "12s"'))

    assert "timings.lease_renew: found 12s, the most is 10s" in text


def test_connecting_is_part_of_a_call_and_may_not_take_longer(tmp_path: Path) -> None:
    text = complaint(real(tmp_path, cloud='connect_timeout = "11s"'))

    assert "connect_timeout: found 11s, but a call is over after 10s" in text


def test_the_client_takes_its_timeouts_from_the_config() -> None:
    cloud = CloudSettings(
        owner="abcdefgh",
        key_file=Path("key"),
        connect_timeout=timedelta(seconds=3),
        answer_timeout=timedelta(seconds=4),
        create_timeout=timedelta(seconds=6),
    )

    settings = settings_of(cloud)

    assert (settings.connect_timeout_s, settings.answer_timeout_s) == (3, 4)
    assert settings.create_timeout_s == 6


def test_the_docs_name_every_floor_of_the_cloud() -> None:
    rows = [row for row in DOCS.read_text().splitlines() if row.startswith("| `")]
    instant = timedelta(microseconds=1)
    cloud = CloudSettings(
        owner="abcdefgh",
        key_file=Path("key"),
        connect_timeout=instant,
        answer_timeout=instant,
        create_timeout=instant,
    )

    low = below_floor(cloud)

    assert len(low) == 3
    for key, _, least in low:
        (row,) = [row for row in rows if row.startswith(f"| `{key}` |")]
        assert f"{show_duration(least)}" in row.rpartition("|")[0]


def test_a_floor_is_never_above_its_default() -> None:
    usual = Config.model_validate(
        {
            "schema": 1,
            "cloud": {"owner": "abcdefgh", "key_file": "key", "url": "http://127.0.0.1:1/v0.1"},
        }
    )

    assert below_floor(usual) == []
