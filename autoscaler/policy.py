"""A policy: what one model needs, what it may cost, and how hard to try. One TOML file per model.

These are the validated values; `toml_file.py` reads them and turns every mistake into a message with file, key, line
and hint. Each default is the figure of the design's references, so that a short file is a good one.
"""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from autoscaler.domain.ids import ModelName
from autoscaler.form import SchemaNumber, Values, floor
from autoscaler.images import pinned
from autoscaler.quantity import Duration, Size, Usd

_SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}$"
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")]
_SLO = re.compile(
    r"\s*(?P<share>\d+(?:\.\d+)?)\s*%\s+of\s+(?P<what>first tokens|tokens)\s+within\s+"
    r"(?P<length>[0-9a-z. ]+?)\s*(?P<rest>,.*)?"
)


class Engine(StrEnum):
    """The kinds of model server that startup scripts and adapters know."""

    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMA_CPP = "llama.cpp"
    EMBEDDING = "embedding"  # Text Embeddings Inference
    CUSTOM = "custom"  # a script of the operator's own


class Mode(StrEnum):
    SHADOW = "shadow"  # decides, explains, rents nothing
    ACTIVE = "active"
    PAUSED = "paused"


class OnLimit(StrEnum):
    HOLD = "hold"
    DRAIN_TO_MIN = "drain-to-min"


class Route(StrEnum):
    LEAST_IN_FLIGHT = "least-in-flight"
    AFFINITY = "affinity"  # a session's requests to the node that has its prompt cached


class OnDeadline(StrEnum):
    WAIT = "wait"
    CUT = "cut"


class Slo(Values):
    """The latency goal: a share of requests within a time to first token, and between tokens.

    Written whole as text, "95% of first tokens within 2s", or as this table.
    """

    goal: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    ttft: Duration = timedelta(seconds=2)
    itl: Duration | None = None


class NodeBounds(Values):
    """How many nodes the model may have."""

    min: Annotated[int, Field(ge=0)] = 0
    max: Annotated[int, Field(ge=0)] = 4

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self


class Server(Values):
    """The model server and how it is started.

    `image` is the container; the preset of the engine when left out. `args` are appended to the engine's command
    line, each one word. `script` (engine = "custom") is a file beside the policy, run as root once the VM is prepared;
    it must start a server on `port`. `token_file` on the daemon's host holds the hub's token: delivered over SSH, never
    in a script.
    """

    image: str | None = None
    port: Annotated[int, Field(ge=1024, le=65000)] = 8000
    args: tuple[str, ...] = ()
    env: dict[EnvironmentName, str] = Field(default_factory=dict)
    script: str | None = None
    token_file: str | None = None
    served_name: Annotated[str, Field(pattern=_SAFE_NAME)] | None = None
    weights: Annotated[str, Field(pattern=_SAFE_NAME)] | None = None
    max_model_len: Annotated[int, Field(ge=128)] | None = None
    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] = 256
    health_path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]*$")] = "/health"
    metrics_path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]*$")] = "/metrics"
    min_driver: Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")] | None = None

    @field_validator("image")
    @classmethod
    def _pinned(cls, value: str | None) -> str | None:
        return value if value is None else str(pinned(value))


class Facts(Values):
    """What the capacity model must know of the weights.

    Left out: taken from the table of known models, else from what the hub told `validate --online`.
    """

    params_b: Annotated[float, Field(gt=0)]
    active_params_b: Annotated[float, Field(gt=0)] | None = None
    layers: Annotated[int, Field(ge=1)]
    hidden: Annotated[int, Field(ge=1)]
    kv_heads: Annotated[int, Field(ge=1)]
    head_dim: Annotated[int, Field(ge=1)]
    weight_bytes_per_param: Annotated[float, Field(gt=0, le=4)] = 2.0


class TypicalRequest(Values):
    """What a request is assumed to be until this daemon has seen some."""

    prompt_tokens: Annotated[int, Field(ge=1)] = 1024
    output_tokens: Annotated[int, Field(ge=0)] = 256


class TypeCapacity(Values):
    """A figure of the operator's own for one GPU type: it replaces the roofline's."""

    concurrency: Annotated[int, Field(ge=1)]
    requests_per_s: Annotated[float, Field(gt=0)]


class Hardware(Values):
    """What may be rented for this model.

    `types` and `locations` allow by name or by a pattern with `*`; empty allows all. `gpus = false` rents CPU-only
    types.
    """

    types: tuple[str, ...] = ()
    exclude_types: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()
    gpus: bool = True
    tensor_parallel: Annotated[int, Field(ge=1, le=16)] = 1
    allow_tensor_parallel_over_pcie: bool = False
    min_disk: Size = 0
    capacity: dict[str, TypeCapacity] = Field(default_factory=dict)


class Scaling(Values):
    """The parameters of the control law (docs/policy.md says what each costs and gains)."""

    target_utilization: Annotated[float, Field(gt=0.1, le=1.0)] = 0.8
    demand_window: Annotated[Duration, floor(10)] = timedelta(seconds=60)
    work_window: Annotated[Duration, floor(60)] = timedelta(minutes=15)
    peak_memory: Annotated[Duration, floor(60)] = timedelta(minutes=30)
    margin: Annotated[float, Field(ge=1.0, le=2.5)] = 1.25
    margin_memory: Annotated[Duration, Field(gt=timedelta(0)), floor(3600)] = timedelta(days=3)
    drain_backlog_within: Annotated[Duration, floor(10)] = timedelta(seconds=120)
    panic_ratio: Annotated[float, Field(gt=1.0)] = 1.5
    panic_after: Annotated[Duration, floor(5)] = timedelta(seconds=30)
    panic_hold: Annotated[Duration, floor(10)] = timedelta(seconds=60)
    stabilization: Annotated[Duration, floor(60)] = timedelta(seconds=600)
    zero_after: Annotated[Duration, floor(60)] = timedelta(seconds=900)
    max_step: Annotated[int, Field(ge=1)] = 2
    boot_prior: Annotated[Duration, floor(30)] = timedelta(seconds=300)
    kv_target: Annotated[float, Field(gt=0, le=1)] = 0.80
    rent_horizon: Annotated[Duration, Field(gt=timedelta(0)), floor(300)] = timedelta(hours=1)
    hold_escalation: Annotated[Duration, floor(60)] = timedelta(minutes=10)
    safe_floor: Annotated[int, Field(ge=0)] = 0


class Spread(Values):
    """How much of the wanted capacity must survive the loss of any one VM or location (0 turns it off)."""

    survive_node: Annotated[float, Field(ge=0, lt=1)] = 0.5
    survive_location: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Hold(Values):
    """What waits at zero nodes, and how much of it."""

    requests: Annotated[int, Field(ge=0, le=100_000)] = 1000
    bytes: Size = 256 * 1024 * 1024
    time: Duration = timedelta(minutes=10)
    queue_in: Literal["balancer", "engine"] = "balancer"
    sse_comments: Annotated[Duration | None, floor(5)] = None


class Affinity(Values):
    """What keeps a session on one node, with `route = "affinity"`: a header, else the prompt's head."""

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = None
    prompt_chars: Annotated[int, Field(ge=1, le=100_000)] = 1024
    bound: Annotated[float, Field(gt=1.0, le=10.0)] = 1.25


class Drain(Values):
    """How a node leaves. `wait` never cuts a request; `cut` may at the deadline, and alerts."""

    deadline: Annotated[Duration, floor(60)] = timedelta(minutes=30)
    on_deadline: OnDeadline = OnDeadline.WAIT


class Deadlines(Values):
    """How long a node may stay in each state of its launch before it counts as failed."""

    creating: Annotated[Duration, floor(60)] = timedelta(minutes=10)
    booting: Annotated[Duration, floor(60)] = timedelta(minutes=15)
    verifying: Annotated[Duration, floor(60)] = timedelta(minutes=30)
    registering: Annotated[Duration, floor(30)] = timedelta(minutes=5)
    token: Annotated[Duration, floor(30)] = timedelta(minutes=10)
    pull: Annotated[Duration, floor(60)] = timedelta(minutes=20)
    health: Annotated[Duration, floor(30)] = timedelta(minutes=20)
    warm_up: Annotated[Duration, floor(10)] = timedelta(minutes=2)


class Retries(Values):
    """When to leave an offer, and when to leave the whole model, alone."""

    offer_backoff: Annotated[Duration, floor(10)] = timedelta(minutes=2)
    offer_backoff_max: Annotated[Duration, floor(60)] = timedelta(hours=1)
    same_failure_limit: Annotated[int, Field(ge=1)] = 3
    launches_per_window: Annotated[int, Field(ge=1)] = 20
    launch_window: Annotated[Duration, Field(le=timedelta(days=1)), floor(60)] = timedelta(
        minutes=10
    )


class Source(Values):
    """One source of signals.

    `kind`: `gateway` (the embedded balancer and activator), `engine` (each node's own page, by the policy's engine),
    `page` (each node's page with the names in `mapping`), `prometheus` (PromQL in `queries` to `url`), `haproxy`.
    """

    kind: Literal["gateway", "engine", "page", "prometheus", "haproxy"]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")] | None = None
    url: str | None = None
    path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]*$")] | None = None
    mapping: dict[str, str] = Field(default_factory=dict)
    queries: dict[str, str] = Field(default_factory=dict)
    backend: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = None
    socket: str | None = None
    timeout: Duration = timedelta(seconds=3)
    max_age: Duration | None = None


class SignalSettings(Values):
    """Where figures come from: for each figure the first source in the list that gives it.

    A node counts as busy for `newcomer` after it became ready: what it does not do yet is no sign of idleness.
    """

    sources: tuple[Source, ...] = (Source(kind="gateway"), Source(kind="engine"))
    window: Annotated[Duration, floor(10)] = timedelta(seconds=60)
    quantile_window: Annotated[Duration, floor(30)] = timedelta(minutes=5)
    min_observations: Annotated[int, Field(ge=1)] = 30
    newcomer: Annotated[Duration, floor(10)] = timedelta(minutes=2)


class Verify(Values):
    """What a node must show before it may serve."""

    prompt: Annotated[str, Field(min_length=1, max_length=2000)] = "Say the word ready."
    max_tokens: Annotated[int, Field(ge=1, le=512)] = 8
    min_tokens_per_s: Annotated[float, Field(ge=0)] = 0.0
    min_free_disk: Size = 2 * 1024**3


class PolicyLimits(Values):
    """What this model may cost at most; checked last, counting everything that may bill."""

    usd_per_hour: Usd | None = None
    usd_per_day: Usd | None = None
    usd_per_month: Usd | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    on_limit: OnLimit = OnLimit.HOLD
    on_usd_per_hour: OnLimit | None = None  # default, as of the next four: on_limit
    on_usd_per_day: OnLimit | None = None
    on_usd_per_month: OnLimit | None = None
    on_nodes: OnLimit | None = None
    on_gpus: OnLimit | None = None
    on_launches: OnLimit = OnLimit.HOLD
    on_failures: OnLimit = OnLimit.HOLD

    def action(self, limit: str) -> OnLimit:
        """What a passed limit does, by the limit's key."""
        own: OnLimit | None = getattr(self, f"on_{limit}")
        return own or self.on_limit


class Policy(Values):
    """One model's policy."""

    schema_: SchemaNumber = 1
    model: Annotated[str, Field(pattern=_SAFE_NAME)]
    aliases: tuple[Annotated[str, Field(pattern=_SAFE_NAME)], ...] = ()
    engine: Engine
    mode: Mode | None = None  # default: shadow until promoted, and active for an emulator
    slo: Slo = Slo()
    nodes: NodeBounds = NodeBounds()
    limit: Usd | None = None
    server: Server = Server()
    facts: Facts | None = None
    typical: TypicalRequest = TypicalRequest()
    hardware: Hardware = Hardware()
    scaling: Scaling = Scaling()
    spread: Spread = Spread()
    hold: Hold = Hold()
    route: Route = Route.LEAST_IN_FLIGHT
    affinity: Affinity = Affinity()
    drain: Drain = Drain()
    deadlines: Deadlines = Deadlines()
    retries: Retries = Retries()
    signals: SignalSettings = SignalSettings()
    verify: Verify = Verify()
    limits: PolicyLimits = PolicyLimits()

    @field_validator("slo", mode="before")
    @classmethod
    def _slo_as_text(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        goal: dict[str, object] = {}
        for part in value.split(","):
            match = _SLO.fullmatch(part)
            if match is None:
                raise ValueError(
                    'write the goal as "95% of first tokens within 2s", if wanted followed by '
                    '", 95% of tokens within 50ms"'
                )
            goal["goal"] = float(match["share"]) / 100
            goal["ttft" if match["what"] == "first tokens" else "itl"] = match["length"]
        return goal

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.engine is Engine.CUSTOM and self.server.script is None:
            raise ValueError('server.script is missing: engine = "custom" runs a script of yours')
        if self.engine is not Engine.CUSTOM and self.server.script is not None:
            raise ValueError('server.script is for engine = "custom" only')
        if self.route is not Route.AFFINITY and self.affinity != Affinity():
            raise ValueError(
                'affinity is for route = "affinity" only: set the one or leave out the other'
            )
        if self.limit is not None and self.limits.usd_per_hour is not None:
            raise ValueError("limit and limits.usd_per_hour say the same: keep one")
        return self

    @property
    def name(self) -> ModelName:
        """The model's name as clients write it."""
        return ModelName(self.model)

    @property
    def served_name(self) -> str:
        """The name under which the model server itself serves the model."""
        return self.server.served_name or self.model

    @property
    def hourly_limit(self) -> Usd | None:
        """The model's $/h limit, however it was written."""
        return self.limit if self.limit is not None else self.limits.usd_per_hour

    def spec_hash(self) -> str:
        """A hash of the declared fields that a running node cannot change: another one means drift."""
        declared = self.model_dump_json(
            include={"model", "engine", "server", "hardware"}, exclude_defaults=True
        )
        return hashlib.sha256(declared.encode()).hexdigest()[:12]
