"""The example config and policies are what a person copies first: they must be right as they stand."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from autoscaler.cli.render_script import priced_offer
from autoscaler.cloud.mkinf.prices import load_prices
from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policies, read_policy
from autoscaler.decide.capacity import Profiles, excluded, replica_capacity
from autoscaler.decide.work import typical_work
from autoscaler.domain.offer import Offer
from autoscaler.nodes.startup import render, replicas_of
from autoscaler.observe.mapping import mapped
from autoscaler.policy import Engine, Mode, Policy
from autoscaler.toml_file import parse_toml

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config.example.toml"
OS_DISK = Decimal("0.02")  # USD per hour, rounded up
OURS = ("chat-8b", "coder-32b-awq", "llama-70b-tp4", "chat-8b-sglang", "embedding")


def policy_file(name: str) -> Path:
    return ROOT / "policies" / f"{name}.toml"


def fitting(policy: Policy, config: Config) -> list[Offer]:
    """Every priced offer that a policy allows and its model fits on."""
    offers = [priced_offer(name, config) for name in load_prices(None).types]
    work, profiles = typical_work(policy), Profiles.load()
    return [
        offer
        for offer in offers
        if excluded(policy, offer) is None and replica_capacity(policy, offer, work, profiles).fits
    ]


def uncommented(text: str) -> str:
    """The text with its commented settings switched on, prose left out."""
    lines = []
    for line in text.splitlines():
        bare = line.removeprefix("# ")
        is_setting = bare != line and (bare.startswith("[") or " = " in bare.split("#")[0])
        lines.append(bare if is_setting and bare[:1] in "[abcdefghijklmnopqrstuvwxyz" else line)
    return "\n".join(lines)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "config.example.toml"),
        tuple(f"policies/{name}.toml" for name in (*OURS, "demo/chat-8b")),
    ],
    ids=["config", "policies"],
)
def test_validate_accepts_the_examples_as_they_stand(arguments: tuple[str, ...]) -> None:
    command = (sys.executable, "-m", "autoscaler", "validate", *arguments)
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.stderr == ""
    assert ended.returncode == 0
    said = [line for line in ended.stdout.splitlines() if not line.startswith(" ")]
    with_config = "--config" in arguments
    every = len(read_policies(ROOT / "policies").policies)
    assert len(said) == (1 + every if with_config else len(arguments))


def test_the_example_config_sets_limits_and_sources_before_anything_else() -> None:
    config = read_config(CONFIG)
    text = CONFIG.read_text()

    assert not config.cloud.is_loopback
    assert config.limits.usd_per_hour
    assert config.limits.usd_per_month
    assert config.limits.nodes
    assert config.firewall.sources
    assert text.index("[limits]") < text.index("[cloud]")


def test_what_the_example_config_shows_in_comments_is_the_default() -> None:
    shown = parse_toml(_without_examples(uncommented(CONFIG.read_text())), CONFIG, Config)
    plain = read_config(CONFIG)

    for section in ("limits", "firewall", "ssh", "serve", "log", "timings"):
        for key in getattr(shown, section).model_fields_set - {"usd_per_day"}:
            if key in {"socket", "key_file", "host_authority"}:  # in a directory of the config's
                continue
            assert getattr(getattr(shown, section), key) == getattr(getattr(plain, section), key)
    for key in ("url", "prefix", "image_pcie", "image_sxm", "image_cpu", "requests_per_s"):
        assert getattr(shown.cloud, key) == getattr(plain.cloud, key)
    assert (shown.state_dir, shown.runtime_dir) == (plain.state_dir, plain.runtime_dir)


def _without_examples(text: str) -> str:
    """Leave out what stands there to replace something else, not to show a default."""
    ours = ("email", "password_file", "owner =", "project", "prices_file", "ca_file")
    return "\n".join(line for line in text.splitlines() if not line.startswith(ours)).replace(
        "[cloud]", '[cloud]\nowner = "0example"'
    )


@pytest.mark.parametrize("name", OURS)
def test_an_example_policy_fits_an_offer_and_gives_a_script_for_each(name: str) -> None:
    config = read_config(CONFIG)
    policy = read_policy(policy_file(name))

    offers = fitting(policy, config)

    assert offers, f"no priced offer fits {name}"
    for offer in offers:
        script = render(
            policy,
            offer,
            nonce="0" * 64,
            replicas=replicas_of(policy, offer),
            config=config,
        )
        assert policy.model in script.text
        assert len(script.ports) == replicas_of(policy, offer)


@pytest.mark.parametrize("name", OURS)
def test_an_example_policy_rents_nothing_until_told_and_can_pay_for_its_cheapest_offer(
    name: str,
) -> None:
    config = read_config(CONFIG)
    policy = read_policy(policy_file(name))
    limit = policy.hourly_limit
    prices = [o.price_per_hour for o in fitting(policy, config) if o.price_per_hour is not None]

    assert policy.mode is Mode.SHADOW
    assert limit is not None
    assert min(price.usd for price in prices) + OS_DISK < limit.usd


def test_the_examples_show_every_kind_that_the_issue_names() -> None:
    shown = [read_policy(policy_file(name)) for name in OURS]

    assert [policy.engine for policy in shown] == [
        Engine.VLLM,
        Engine.VLLM,
        Engine.VLLM,
        Engine.SGLANG,
        Engine.EMBEDDING,
    ]
    large = shown[2].hardware
    assert (large.tensor_parallel, large.types) == (4, ("a100-80gb.4x",))
    assert large.allow_tensor_parallel_over_pcie


@pytest.mark.parametrize("name", OURS)
def test_the_settings_in_a_policys_comments_are_valid_too(name: str, tmp_path: Path) -> None:
    text = uncommented(policy_file(name).read_text())

    policy = parse_toml(text, tmp_path / "policy.toml", Policy)

    for source in policy.signals.sources:
        mapped("page", source.mapping)
