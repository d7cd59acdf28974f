"""Drive the rivals' own code and write down what it answers: the vectors that the tests replay.

Not run by any test, and nothing of ours is imported: the packages live in environments of their own.

    python -m venv A && A/bin/pip install skypilot==0.14.1 'ray[serve]==2.60.0' msgspec numpy pandas filterpy
    A/bin/pip install --no-deps ai-dynamo==1.6.1
    python -m venv B && B/bin/pip install 'dstack[server]==0.22.5'
    A/bin/python bench/rivals/record.py skyserve rayserve dynamo && B/bin/python bench/rivals/record.py dstack
"""

from __future__ import annotations

import datetime
import importlib
import importlib.machinery
import importlib.metadata
import json
import logging
import random
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

OUT = Path(__file__).parents[2] / "tests" / "bench" / "vectors"
UNUSED = (
    "aisimulate_core",
    "dynamo._core",
    "dynamo.llm",
    "dynamo.runtime",
    "pmdarima",
    "prophet",
    "sklearn",
)
Case = dict[str, Any]


def main(names: Sequence[str]) -> int:
    """Write the vectors of the rivals named."""
    logging.disable(logging.CRITICAL)
    here = str(Path(__file__).parent)  # our modules are called as theirs
    sys.path[:] = [p for p in sys.path if p != here]
    sys.meta_path.append(_Placeholders())
    OUT.mkdir(parents=True, exist_ok=True)
    for name in names:
        package, record, defaults = RECORDERS[name]
        cases = record(random.Random(20261124))
        version = importlib.metadata.version(package)
        told = {"package": f"{package} {version}", "defaults": defaults(), "cases": cases}
        (OUT / f"{name}.json").write_text(json.dumps(told, separators=(",", ":")) + "\n")
        print(f"{name}: {len(cases)} cases from {told['package']}")
    return 0


class _Placeholders:
    """Empty modules for what the deciding code imports and does not use."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.startswith(UNUSED):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: mock.MagicMock(name=name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        return None


def traffic(rng: random.Random, steps: int, peak: int) -> list[int]:
    """Counts that rest, drift, jump and fall silent."""
    level, found = rng.randint(0, peak // 4), []
    for _ in range(steps):
        turn = rng.random()
        if turn < 0.06:
            level = rng.randint(0, peak)
        elif turn < 0.08:
            level = 0
        elif turn < 0.5:
            level = max(0, level + rng.randint(-peak // 10 - 1, peak // 10 + 1))
        found.append(level)
    return found


def skyserve(rng: random.Random) -> list[Case]:
    """`RequestRateAutoscaler`: requests in the window at each decision, replicas wanted, seconds to the next."""
    module = importlib.import_module("sky.serve.autoscalers")
    spec_of = importlib.import_module("sky.serve.service_spec").SkyServiceSpec
    cases = []
    for least, up_s, down_s in ((1, None, None), (0, 60, 200), (0, 40, 40), (2, 20, 300)):
        target = rng.choice([0.5, 1.25, 3.0])
        spec = spec_of("/", 1200, 15, 10, 120, least, 12, target_qps_per_replica=target)
        spec._upscale_delay_seconds, spec._downscale_delay_seconds = up_s, down_s
        scaler = module.RequestRateAutoscaler("s", spec)
        counts, wants, waits = traffic(rng, 150, int(target * 60 * 14)), [], []
        for count in counts:
            scaler.request_timestamps = [0.0] * count
            wants.append(len(scaler.generate_scaling_decisions([], [1])))
            waits.append(scaler.get_decision_interval())
        cases.append(
            {
                "settings": {
                    "upscale_delay_s": up_s,
                    "downscale_delay_s": down_s,
                    "min_replicas": least,
                },
                "target": target,
                "most": 12,
                "counts": counts,
                "wants": wants,
                "waits": waits,
            }
        )
    return cases


def dstack(rng: random.Random) -> list[Case]:
    """`RPSAutoscaler`: seconds and requests in the window at each pass, replicas wanted."""
    module = importlib.import_module("dstack._internal.server.services.services.autoscalers")
    stat = importlib.import_module("dstack._internal.proxy.gateway.schemas.stats").Stat
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    cases = []
    for least, window, up_s, down_s in ((1, 60, 300, 600), (0, 30, 60, 120), (2, 300, 0, 90)):
        target = rng.choice([0.5, 1.25, 3.0])
        scaler = module.RPSAutoscaler(least, 12, target, window, up_s, down_s)
        counts = traffic(rng, 150, int(target * window * 14))
        desired, scaled, times, wants = least, 0, [], []
        at_s = 0
        for count in counts:
            now = start + datetime.timedelta(seconds=at_s)
            with mock.patch.object(module.common_utils, "get_current_datetime", return_value=now):
                wanted = scaler.get_desired_count(
                    desired,
                    {window: stat(requests=count, request_time=1.0)},
                    start + datetime.timedelta(seconds=scaled),
                )
            scaled = at_s if wanted != desired else scaled
            desired = wanted
            times.append(at_s)
            wants.append(wanted)
            at_s += rng.choice([5, 5, 10, 20])
        settings = {
            "window_s": window,
            "scale_up_delay_s": up_s,
            "scale_down_delay_s": down_s,
            "min_replicas": least,
        }
        cases.append(
            {
                "settings": settings,
                "target": target,
                "most": 12,
                "times": times,
                "counts": counts,
                "wants": wants,
            }
        )
    return cases


def rayserve(rng: random.Random) -> list[Case]:
    """The default policy as a deployment runs it: time, ongoing requests and running replicas, new target."""
    module = importlib.import_module("ray.serve.autoscaling_policy")
    config = importlib.import_module("ray.serve.config")
    policy = module._apply_autoscaling_config(module._core_replica_queue_length_policy)
    cases = []
    kinds = (
        (1, 2.0, 30.0, 600.0, None, None),
        (0, 3.0, 30.0, 60.0, None, None),
        (0, 5.0, 0.0, 60.0, 2.0, 0.5),
        (0, 9.5, 45.0, 90.0, 0.4, 0.3),
    )
    for least, per_replica, up_s, down_s, up_factor, down_factor in kinds:
        settings = config.AutoscalingConfig(
            min_replicas=least,
            max_replicas=12,
            target_ongoing_requests=per_replica,
            upscale_delay_s=up_s,
            downscale_delay_s=down_s,
            upscaling_factor=up_factor,
            downscaling_factor=down_factor,
        )
        state: dict[str, Any] = {}
        target = running = least
        case: Case = {
            "settings": {
                "min_replicas": least,
                "target_ongoing_requests": per_replica,
                "upscale_delay_s": up_s,
                "downscale_delay_s": down_s,
                "upscaling_factor": up_factor or 1.0,
                "downscaling_factor": down_factor or 1.0,
            },
            "most": 12,
            "steps": [],
        }
        now_s = 1000.0
        for ongoing in [*traffic(rng, 180, int(per_replica * 14)), *[0] * 25]:
            context = mock.Mock(
                current_num_replicas=running,
                target_num_replicas=target,
                total_num_requests=float(ongoing),
                config=settings,
                policy_state=state,
            )
            with mock.patch.object(module.time, "time", return_value=now_s):
                wanted, state = policy(context)
            before, target = target, max(least, min(12, wanted))
            case["steps"].append([now_s, ongoing, running, before, wanted])
            running += (target > running) if rng.random() < 0.3 else 0
            running = min(running, target)
            now_s += rng.choice([5.0, 10.0, 10.0])
        cases.append(case)
    return cases


def dynamo(rng: random.Random) -> list[Case]:
    """The planner's thresholds and its floor for one pool, and its Kalman filter."""
    return [*_dynamo_thresholds(rng), _dynamo_floor(rng), _dynamo_kalman(rng)]


def _planner(**settings: Any) -> Any:
    module = importlib.import_module("dynamo.planner.core.state_machine")
    kinds = importlib.import_module("dynamo.planner.core.types")
    config = importlib.import_module("dynamo.planner.config.planner_config").PlannerConfig
    engine = kinds.EngineCapabilities(num_gpu=1, max_kv_tokens=10_000, max_num_batched_tokens=8192)
    with mock.patch.object(module, "PlannerEnginePerfModel"):  # a replica's rate is given below
        return module.PlannerScalingState(
            config(mode="agg", max_gpu_budget=12, **settings),
            kinds.WorkerCapabilities(decode=engine),
        )


def _counts(ready: int, pending: int) -> Any:
    kinds = importlib.import_module("dynamo.planner.core.types")
    return kinds.WorkerCounts(
        ready_num_decode=ready, expected_num_decode=ready + pending, pending_num_decode=pending
    )


def _dynamo_thresholds(rng: random.Random) -> list[Case]:
    metrics = importlib.import_module("dynamo.common.forward_pass_metrics")
    kinds = importlib.import_module("dynamo.planner.core.types")
    cases = []
    own = {"decode_scale_up_kv_rate": 70.0, "decode_scale_down_kv_rate": 35.0}
    for objective, extra in (("throughput", {}), ("latency", {}), ("load", own)):
        planner = _planner(optimization_target=objective, **extra)
        steps = []
        for _ in range(120):
            ready, pending = rng.randint(1, 6), rng.choice([0, 0, 0, 1, 3])
            around = rng.choice([0.02, 0.08, 0.3, 0.5, 0.7, 1.0])
            tokens = [int(10_000 * around * rng.uniform(0.7, 1.2)) for _ in range(ready)]
            seen = {
                (str(i), 0): metrics.ForwardPassMetrics(
                    scheduled_requests=metrics.ScheduledRequestMetrics(
                        sum_decode_kv_tokens=held - held // 5
                    ),
                    queued_requests=metrics.QueuedRequestMetrics(sum_prefill_tokens=held // 5),
                )
                for i, held in enumerate(tokens)
            }
            planner.begin_tick()
            planner.observe_worker_counts(_counts(ready, pending))
            answer = planner.advance_load(kinds.FpmObservations(decode=seen))
            wanted = None if answer is None else answer.num_decode
            steps.append([[held / 10_000 for held in tokens], ready, pending, wanted])
        cases.append({"what": "thresholds", "objective": objective, "steps": steps})
    return cases


def _dynamo_floor(rng: random.Random) -> Case:
    kinds = importlib.import_module("dynamo.planner.core.types")
    planner = _planner(optimization_target="sla")
    steps = []
    for _ in range(120):
        ready, pending = rng.randint(1, 12), rng.choice([0, 0, 2])
        demand = rng.choice([0.0, rng.uniform(0, 3), rng.uniform(0, 14)])
        capacity = mock.Mock(rps=0.5, eligible=True, ttft_ms=1.0, itl_ms=1.0)
        planner._agg_regression = mock.Mock(
            find_engine_capacity_rps=mock.Mock(return_value=capacity)
        )
        planner.begin_tick()
        planner.observe_worker_counts(_counts(ready, pending))
        answer = planner.advance_throughput_from_prediction(
            kinds.TrafficObservation(duration_s=180.0, num_req=0.0, isl=1.0, osl=1.0),
            predicted_num_req=demand * 0.5 * 180.0,
            predicted_isl=1.0,
            predicted_osl=1.0,
            predicted_kv_hit_rate=None,
        )
        steps.append([demand, ready, pending, None if answer is None else answer.num_decode])
    return {"what": "floor", "most": 12, "steps": steps}


def _dynamo_kalman(rng: random.Random) -> Case:
    module = importlib.import_module("dynamo.planner.core.load.predictors")
    config = mock.Mock(
        kalman_q_level=1.0,
        kalman_q_trend=0.1,
        kalman_r=10.0,
        kalman_min_points=5,
        load_predictor_log1p=False,
    )
    predictor = module.KalmanPredictor(config)
    points, ahead = [0, 0, *traffic(rng, 80, 400)], []
    for point in points:
        predictor.add_data_point(point)
        ahead.append(round(predictor.predict_next(), 9))
    return {"what": "kalman", "points": points, "ahead": ahead}


def _skyserve_defaults() -> dict[str, Any]:
    said = importlib.import_module("sky.serve.constants")
    return {
        "upscale_delay_s": said.AUTOSCALER_DEFAULT_UPSCALE_DELAY_SECONDS,
        "downscale_delay_s": said.AUTOSCALER_DEFAULT_DOWNSCALE_DELAY_SECONDS,
        "min_replicas": said.DEFAULT_MIN_REPLICAS,
    }


def _dstack_defaults() -> dict[str, Any]:
    module = importlib.import_module("dstack._internal.core.models.configurations")
    said = module.ScalingSpec(metric="rps", target=1)
    return {
        "window_s": module.DEFAULT_SCALING_WINDOW,
        "scale_up_delay_s": int(said.scale_up_delay),
        "scale_down_delay_s": int(said.scale_down_delay),
    }


def _rayserve_defaults() -> dict[str, Any]:
    said = importlib.import_module("ray.serve.config").AutoscalingConfig()
    return {
        "target_ongoing_requests": said.target_ongoing_requests,
        "look_back_s": said.look_back_period_s,
        "metrics_interval_s": said.metrics_interval_s,
        "upscale_delay_s": said.upscale_delay_s,
        "downscale_delay_s": said.downscale_delay_s,
        "upscaling_factor": said.get_upscaling_factor(),
        "downscaling_factor": said.get_downscaling_factor(),
        "min_replicas": said.min_replicas,
    }


def _dynamo_defaults() -> dict[str, Any]:
    said = importlib.import_module("dynamo.planner.config.planner_config").PlannerConfig(mode="agg")
    steps = importlib.import_module("dynamo.planner.config.defaults").SLAPlannerDefaults
    rules = importlib.import_module("dynamo.planner.core.load_scaling")
    return {
        "objective": said.optimization_target,
        "up_kv": rules._DECODE_THROUGHPUT_SCALE_UP,
        "down_kv_share": rules._DECODE_THROUGHPUT_SCALE_DOWN,
        "load_interval_s": said.load_adjustment_interval_seconds,
        "throughput_interval_s": said.throughput_adjustment_interval_seconds,
        "load_steps": "on" if steps.enable_load_scaling else "off",
        "ttft_s": said.ttft_ms / 1000,
        "itl_s": said.itl_ms / 1000,
        "sensitivity": said.load_scaling_down_sensitivity / 100,
        "max_step": said.max_throughput_scaling_replicas,
        "min_replicas": said.min_endpoint,
    }


Recorder = tuple[str, Callable[[random.Random], list[Case]], Callable[[], dict[str, Any]]]
RECORDERS: dict[str, Recorder] = {
    "skyserve": ("skypilot", skyserve, _skyserve_defaults),
    "dstack": ("dstack", dstack, _dstack_defaults),
    "rayserve": ("ray", rayserve, _rayserve_defaults),
    "dynamo": ("ai-dynamo", dynamo, _dynamo_defaults),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(RECORDERS)))
