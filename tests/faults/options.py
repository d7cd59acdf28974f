"""What a schedule draws before it begins: how many models, how large, which cloud, and what is asked of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from autoscaler.config import Config
from autoscaler.domain.ids import ModelName
from autoscaler.emulator.switches import Switches
from autoscaler.policy import Policy
from tests.faults.shop import Demand

PREFIX, OWNER = "as1", "simulate"
MARK = f"{PREFIX}-{OWNER}-"
MODELS = ("test/chat", "test/coder")
CONCURRENCY = 6  # requests that fill a replica
_SWITCHES = {
    "delete_running": ("ok", "ok", "refused"),
    "duplicate_names": ("refused", "ok"),
    "finished_operations": ("kept", "dropped"),
    "list": ("whole", "paged"),
    "create_id": ("yes", "yes", "no"),
    "quota": ("http", "operation"),
}


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """One model: its bounds, and what clients ask of it."""

    name: ModelName
    least: int
    most: int
    on_deadline: str
    demand: Demand


@dataclass(frozen=True, slots=True)
class Options:
    """One world, before anything goes wrong in it.

    Attributes:
        is_fine: whether the daemon steps every few seconds, as by default, and not every twenty.
        proven: whether a delete was proven in this project before.
        strangers: machines of other people in the project.
        launches: the most of a model within ten minutes; `every_launch`: of all models.
    """

    hours: float
    start: datetime
    models: tuple[ModelOptions, ...]
    balancers: int
    switches: Switches
    nodes: int
    usd_per_hour: int
    usd_per_day: int | None
    on_limit: str
    proven: bool
    is_fine: bool
    strangers: int = 2
    gpus: int | None = None
    launches: int = 20
    every_launch: int = 60
    extra: dict[str, str] = field(default_factory=dict)


def draw(rng: random.Random, hours: float) -> Options:
    """Draw a world. Dates are near the ends of months and days, and near the hours that clocks skip."""
    models = tuple(
        ModelOptions(
            name=ModelName(name),
            least=(least := rng.choice((0, 0, 1, 2))),
            most=max(least, rng.randint(1, 5)),
            on_deadline=rng.choice(("wait", "cut")),
            demand=_demand(rng, hours),
        )
        for name in MODELS[: rng.choice((1, 1, 1, 2))]
    )
    start = rng.choice(
        (
            datetime(2026, 3, 28, 23, 20, tzinfo=UTC),
            datetime(2026, 10, 31, 22, 50, tzinfo=UTC),
            datetime(2026, 6, 10, 11, 0, tzinfo=UTC),
        )
    )
    # a stream of its own: what is drawn from it shifts no fault
    tight = random.Random(repr((models, start)))
    usd_per_day = tight.choice((40, 4)) if all(model.least == 0 for model in models) else 40
    return Options(
        hours=hours,
        start=start,
        models=models,
        balancers=rng.choice((1, 1, 2)),
        switches=Switches(
            **{key: rng.choice(values) for key, values in _SWITCHES.items()},
            meter="existence",
        ),
        nodes=rng.choice((10, 10, 4)),
        usd_per_hour=rng.choice((30, 30, 6)),
        usd_per_day=rng.choice((None, None, usd_per_day)),
        on_limit=rng.choice(("hold", "drain-to-min")),
        proven=rng.random() < 0.8,
        is_fine=hours <= 2 and rng.random() < 0.04,
        gpus=tight.choice((None, None, None, 3)),
        launches=tight.choice((20, 20, 20, 20, 3)),
        every_launch=tight.choice((60, 60, 60, 60, 4)),
    )


def _demand(rng: random.Random, hours: float) -> Demand:
    steps, at_s = [(0.0, rng.choice((0.0, 0.1, 0.3)))], 0.0
    while at_s < hours * 3600:
        at_s += rng.uniform(300, 2400)
        steps.append((at_s, rng.choice((0.0, 0.05, 0.1, 0.2, 0.4, 0.6))))
    return Demand(tuple(steps))


def config_of(options: Options) -> Config:
    """The daemon's config: a real cloud's, with the default durations where they cost no simulated event."""
    nowhere = Path("/nonexistent")
    limits: dict[str, object] = {
        "usd_per_hour": options.usd_per_hour,
        "usd_per_month": 20_000,
        "nodes": options.nodes,
        "gpus": options.gpus,
        "launches_per_window": options.every_launch,
        "on_limit": options.on_limit,
    }
    if options.usd_per_day is not None:
        limits["usd_per_day"] = options.usd_per_day
    return Config.model_validate(
        {
            "schema": 1,
            "cloud": {"key_file": nowhere / "key", "prefix": PREFIX, "owner": OWNER},
            "limits": limits,
            "firewall": {"sources": ["198.51.100.0/24"]},
            "reach": "public-plain",
            "state_dir": nowhere,
            "runtime_dir": nowhere,
            "policies": nowhere,
            "timings": {
                "reconcile": "15s" if options.is_fine else "120s" if options.hours > 2 else "60s",
                "step": "3s" if options.is_fine else "20s",
                "market": "60s" if options.is_fine else "180s",
                "lease_renew": "5s" if options.is_fine else "10s",
                "liveness": "10s" if options.is_fine else "20s",
                "unhealthy_after": "60s",
            },
        }
    )


def policy_of(model: ModelOptions, launches: int = 20) -> Policy:
    """A model's policy. Its figures make a replica small: a handful of requests fill it."""
    return Policy.model_validate(
        {
            "schema": 1,
            "model": model.name,
            "engine": "vllm",
            "mode": "active",
            "nodes": {"min": model.least, "max": model.most},
            "facts": {"params_b": 8.03, "layers": 32, "hidden": 4096, "kv_heads": 8, "head_dim": 128},
            "hardware": {
                "capacity": {
                    gpu: {"concurrency": CONCURRENCY, "requests_per_s": 0.15}
                    for gpu in ("l40s", "a100-80gb-pcie")
                },
            },
            "scaling": {"boot_prior": "200s"},
            "drain": {"deadline": "5m", "on_deadline": model.on_deadline},
            "retries": {"offer_backoff_max": "10m", "launches_per_window": launches},
        }
    )  # fmt: skip


def horizon(policy: Policy) -> timedelta:
    """How long a model's signals are remembered."""
    scaling = policy.scaling
    return max(scaling.peak_memory, scaling.stabilization, scaling.zero_after, timedelta(hours=2))
