"""What a replica carries: the reference table, and every reason why one cannot run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from autoscaler.decide import Profiles, Work, observed_work, replica_capacity
from autoscaler.decide.capacity import CapacitySource, reference_offer, units
from autoscaler.domain.offer import Offer, OfferKey
from autoscaler.domain.signals import Figure, FigureName, Signals
from autoscaler.errors import ConfigError
from autoscaler.policy import Policy

if TYPE_CHECKING:
    from tests.decide.conftest import World

TYPICAL = Work(1024, 256)
TYPES = ("a40", "l40s", "a100-40gb-pcie", "a100-80gb-pcie", "a100-80gb-sxm")
TIGHT = {"goal": 0.95, "ttft": "1s", "itl": "50ms"}
LOOSE = {"goal": 0.95, "ttft": "3s", "itl": "100ms"}
# requests/s and batch of one replica per type in the order of TYPES: docs/capacity.md; None: no batch meets the goal
TABLE: list[tuple[str, int, dict[str, Any], list[tuple[float, int] | None]]] = [
    (
        "Qwen/Qwen3-0.6B",
        1,
        TIGHT,
        [(10.7, 136), (14.1, 180), (21.5, 227), (25.9, 256), (27.8, 256)],
    ),
    (
        "meta-llama/Llama-3.1-8B-Instruct",
        1,
        TIGHT,
        [(1.03, 13), (2.45, 31), (4.11, 52), (5.17, 66), (5.97, 76)],
    ),
    (
        "meta-llama/Llama-3.1-8B-Instruct",
        1,
        LOOSE,
        [(2.41, 61), (4.23, 108), (5.12, 115), (6.03, 154), (6.86, 175)],
    ),
    ("Qwen/Qwen3-32B-AWQ", 1, TIGHT, [None, (0.21, 2), (0.17, 1), (0.21, 1), (0.22, 1)]),
    ("Qwen/Qwen3-32B-AWQ", 1, LOOSE, [(0.27, 4), (1.07, 27), (0.82, 9), (1.01, 10), (1.31, 15)]),
    ("Qwen/Qwen3-32B", 2, TIGHT, [None, None, (0.56, 7), (0.65, 7), (1.91, 24)]),
    ("Qwen/Qwen3-32B", 2, LOOSE, [(0.40, 10), (0.87, 22), (1.11, 20), (1.77, 45), (3.18, 81)]),
    (
        "meta-llama/Llama-3.3-70B-Instruct",
        4,
        TIGHT,
        [None, None, (0.08, 1), (0.10, 1), (1.43, 18)],
    ),
    (
        "meta-llama/Llama-3.3-70B-Instruct",
        4,
        LOOSE,
        [(0.12, 3), (0.32, 8), (0.52, 10), (0.65, 12), (2.74, 70)],
    ),
]


@pytest.mark.parametrize(("model", "tensor_parallel", "slo", "row"), TABLE)
def test_the_roofline_gives_the_worked_examples_within_a_tenth(
    make_policy: Callable[..., Policy],
    make_offer: Callable[..., Offer],
    model: str,
    tensor_parallel: int,
    slo: dict[str, Any],
    row: list[tuple[float, int] | None],
) -> None:
    policy = make_policy(
        model=model,
        slo=slo,
        hardware={
            "tensor_parallel": tensor_parallel,
            "allow_tensor_parallel_over_pcie": True,
        },
    )

    for gpu, expected in zip(TYPES, row, strict=True):
        capacity = replica_capacity(
            policy, make_offer(gpu, tensor_parallel), TYPICAL, Profiles.load()
        )
        if expected is None:
            assert not capacity.fits
            assert "too slow for the goal" in capacity.why_not
        else:
            assert capacity.source is CapacitySource.ROOFLINE
            assert capacity.requests_per_s == pytest.approx(expected[0], rel=0.1)
            assert abs(capacity.concurrency - expected[1]) <= max(1, expected[1] // 10)


def test_an_embedding_model_reads_as_many_tokens_as_the_reference_says(
    make_policy: Callable[..., Policy], make_offer: Callable[..., Offer]
) -> None:
    policy = make_policy(model="Qwen/Qwen3-Embedding-0.6B", engine="embedding", slo=LOOSE)
    expected = (61e3, 111e3, 96e3, 106e3, 123e3)

    for gpu, tokens_per_s in zip(TYPES, expected, strict=True):
        capacity = replica_capacity(policy, make_offer(gpu), Work(512, 0), Profiles.load())
        # the share of a GPU that prefill may take is 0.7
        assert capacity.requests_per_s * 512 / 0.7 == pytest.approx(tokens_per_s, rel=0.1)
        assert 1 <= capacity.concurrency <= 256


def test_four_gpus_over_pcie_are_refused_unless_allowed(
    make_policy: Callable[..., Policy], make_offer: Callable[..., Offer]
) -> None:
    model = "meta-llama/Llama-3.3-70B-Instruct"
    refused = make_policy(model=model, hardware={"tensor_parallel": 4})
    pcie, sxm = make_offer("a100-80gb-pcie", 4), make_offer("a100-80gb-sxm", 8)

    over_pcie = replica_capacity(refused, pcie, TYPICAL, Profiles.load())
    over_nvlink = replica_capacity(refused, sxm, TYPICAL, Profiles.load())

    assert not over_pcie.fits
    assert "allow_tensor_parallel_over_pcie" in over_pcie.why_not
    assert over_nvlink.fits
    assert over_nvlink.replicas == 2


@pytest.mark.parametrize(
    ("more", "gpu", "words"),
    [
        ({"model": "Qwen/Qwen3-32B"}, "l40s", "the weights need 66 GB of 41 GB usable"),
        ({"model": "somebody/unknown"}, "l40s", "add [facts] with params_b"),
        ({}, "b300", "no profile of the GPU 'b300'"),
        ({"hardware": {"tensor_parallel": 2}}, "l40s", "needs 2 GPUs, it has 1"),
        ({"hardware": {"gpus": False}}, "l40s", "rents CPU-only types"),
    ],
)
def test_a_replica_that_cannot_run_says_why_and_what_to_change(
    make_policy: Callable[..., Policy],
    make_offer: Callable[..., Offer],
    more: dict[str, Any],
    gpu: str,
    words: str,
) -> None:
    key = OfferKey("x.1x", "east")
    offer = replace(make_offer("l40s", key=key), gpu=gpu)

    capacity = replica_capacity(make_policy(**more), offer, TYPICAL, Profiles.load())

    assert not capacity.fits
    assert words in capacity.why_not


def test_the_operators_own_figure_replaces_the_roofline_and_shrinks_with_longer_requests(
    make_policy: Callable[..., Policy], make_offer: Callable[..., Offer]
) -> None:
    own = {"l40s": {"concurrency": 40, "requests_per_s": 3.0}}
    policy = make_policy(model="somebody/unknown", hardware={"capacity": own})
    offer = make_offer("l40s", 2)

    as_typical = replica_capacity(policy, offer, TYPICAL, Profiles.load())
    twice = replica_capacity(policy, offer, Work(2048, 512), Profiles.load())

    assert as_typical.source is CapacitySource.POLICY
    assert (as_typical.concurrency, as_typical.replicas) == (40, 2)
    assert as_typical.requests_per_s == pytest.approx(3.0)
    assert twice.requests_per_s == pytest.approx(1.5)


def test_a_cpu_only_vm_takes_the_operators_figure_or_a_low_guess(
    make_policy: Callable[..., Policy], make_offer: Callable[..., Offer]
) -> None:
    offer = make_offer(gpu="l40s", gpus=1)
    cpu = replace(offer, key=OfferKey("c1a.4x", "east"), gpu=None, gpus=0, gpu_memory_gb=0)
    own = {"c1a.4x": {"concurrency": 4, "requests_per_s": 2.0}}
    guessed = make_policy(hardware={"gpus": False})
    stated = make_policy(hardware={"gpus": False, "capacity": own})

    assert replica_capacity(guessed, cpu, TYPICAL, Profiles.load()).source == "default"
    assert replica_capacity(guessed, cpu, TYPICAL, Profiles.load()).requests_per_s < 0.2
    assert replica_capacity(stated, cpu, TYPICAL, Profiles.load()).requests_per_s == 2.0
    assert not replica_capacity(stated, offer, TYPICAL, Profiles.load()).fits


def test_the_reference_is_the_cheapest_work_in_stock_or_not(
    make_policy: Callable[..., Policy],
    catalogue: tuple[Offer, ...],
    make_offer: Callable[..., Offer],
) -> None:
    policy = make_policy()
    sold_out = tuple(replace(offer, in_stock=False) for offer in catalogue)

    found = reference_offer(policy, sold_out, TYPICAL, Profiles.load())

    assert found is not None
    # $1.25 for 4.23/s beats $1.81 for 6.03/s by a hair: the loose goal of the reference table
    assert found[0].key == OfferKey("l40s-48gb.1x", "east")
    a40 = replica_capacity(policy, make_offer("a40", 2), TYPICAL, Profiles.load())
    assert units(a40, found[1]) == pytest.approx(2 * 2.41 / 4.23, rel=0.02)


def test_the_reference_stays_while_another_is_hardly_cheaper(
    make_policy: Callable[..., Policy], catalogue: tuple[Offer, ...]
) -> None:
    kept = reference_offer(make_policy(), catalogue, TYPICAL, Profiles.load(), "a100-80gb.1x")
    dear = reference_offer(make_policy(), catalogue, TYPICAL, Profiles.load(), "a40.1x")

    assert kept is not None
    assert kept[0].key.type == "a100-80gb.1x"
    assert dear is not None
    assert dear[0].key.type == "l40s-48gb.1x"


def test_the_work_of_a_request_moves_from_the_policys_figure_to_what_is_measured(
    world: World,
) -> None:
    def signals(second: int, waiting: float = 0.0) -> Signals:
        at = world.now + timedelta(seconds=second)
        rates = {"arrivals_per_s": 2.0, "prompt_tokens_per_s": 1000.0, "output_tokens_per_s": 200.0}
        figures = {**rates, "running": 5.0, "waiting": waiting}
        return Signals(
            at, tuple((FigureName(k), Figure(v, at, "engine")) for k, v in figures.items())
        )

    few = [signals(0)]
    many = [signals(15 * i) for i in range(60)]
    saturated = [signals(15 * i, waiting=50.0) for i in range(60)]

    assert observed_work(world.policy, ()) == Work(1024.0, 256.0)
    assert observed_work(world.policy, few).prompt_tokens > 600
    assert observed_work(world.policy, many).prompt_tokens == pytest.approx(500, rel=0.03)
    assert observed_work(world.policy, many).output_tokens == pytest.approx(100, rel=0.03)
    assert observed_work(world.policy, saturated) == Work(1024.0, 256.0)


def test_a_broken_table_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="GPU profiles"):
        Profiles.parse("schema = 1", "")
