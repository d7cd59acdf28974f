"""`reach`: what the config allows is what a policy's server can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoscaler.config import Config
from autoscaler.config_file import read_policies
from autoscaler.errors import ConfigError


def config(url: str, **more: object) -> Config:
    table: dict[str, object] = {
        "schema": 1,
        "cloud": {"key_file": "key", "owner": "testtest", "url": url},
        "limits": {"usd_per_hour": "1", "usd_per_month": "9", "nodes": 1},
        "firewall": {"sources": ["203.0.113.5/32"]},
    }
    return Config.model_validate(table | more)


def policy(folder: Path, engine: str, server: str = "") -> Path:
    text = f'schema = 1\nmodel = "a/b"\nengine = "{engine}"\n{server}'
    (folder / "p.toml").write_text(text)
    return folder


def test_what_is_not_said_is_verified_on_a_real_cloud_and_plain_on_loopback() -> None:
    assert config("https://api.mkinf.io/v0.1").way == "tls"
    assert config("http://127.0.0.1:9/v0.1").way == "private"
    assert config("https://api.mkinf.io/v0.1", reach="public-plain").way == "public-plain"


def test_sources_are_needed_where_a_port_must_be_opened_and_not_for_tunnels() -> None:
    nobody: dict[str, object] = {"firewall": {"sources": []}}
    url = "https://api.mkinf.io/v0.1"

    for reach in ("tls", "private", "public-plain"):
        with pytest.raises(
            ValueError, match=r"firewall\.sources is empty.*firewall\.manage = false"
        ):
            config(url, reach=reach, **nobody)
    assert config(url, reach="tunnel", **nobody).way == "tunnel"


@pytest.mark.parametrize("engine", ["llama.cpp", "embedding", "sglang"])
def test_a_server_without_tls_is_refused_with_what_would_do(tmp_path: Path, engine: str) -> None:
    folder = policy(tmp_path, engine)

    with pytest.raises(ConfigError) as refused:
        read_policies(folder, reach="tls")

    said = str(refused.value)
    assert said.startswith(str(folder / "p.toml"))
    assert engine in said
    assert 'reach = "tunnel"' in said
    for other in ("tunnel", "private", "public-plain"):
        assert read_policies(folder, reach=other).policies


@pytest.mark.parametrize(
    ("image", "speaks"),
    [("v0.5.9", False), ("v0.5.10", True), ("v0.6.0-cu126", True), ("nightly", False)],
)
def test_sglang_speaks_tls_from_the_version_on_that_has_its_options(
    tmp_path: Path, image: str, speaks: bool
) -> None:
    digest = "sha256:" + "ab" * 32
    folder = policy(tmp_path, "sglang", f'[server]\nimage = "lmsysorg/sglang:{image}@{digest}"\n')

    if speaks:
        assert read_policies(folder, reach="tls").policies
    else:
        with pytest.raises(ConfigError, match=r"0\.5\.10"):
            read_policies(folder, reach="tls")


def test_vllm_may_be_reached_in_every_way(tmp_path: Path) -> None:
    folder = policy(tmp_path, "vllm")

    for reach in ("tls", "tunnel", "private", "public-plain"):
        assert read_policies(folder, reach=reach).policies
