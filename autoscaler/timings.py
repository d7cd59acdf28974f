"""How long and how often: every duration of the protocols, as config.toml's `[timings]` has them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, model_validator

from autoscaler.form import Values, floor
from autoscaler.quantity import Duration, show_duration


class Timings(Values):
    """Every duration of the protocols, with its default and its floor."""

    reconcile: Annotated[Duration, floor(5)] = timedelta(seconds=15)
    step: Annotated[Duration, floor(1)] = timedelta(seconds=2)
    sweep: Annotated[Duration, floor(30)] = timedelta(seconds=60)
    market: Annotated[Duration, floor(15)] = timedelta(seconds=60)
    settling_time: Annotated[Duration, floor(120)] = timedelta(seconds=600)
    settling_time_min: Annotated[Duration, floor(120)] = timedelta(seconds=120)
    settling_time_max: Annotated[Duration, floor(120)] = timedelta(seconds=900)
    intent_max_age: Annotated[Duration, floor(60)] = timedelta(minutes=10)
    orphan_grace: Annotated[Duration, floor(300)] = timedelta(minutes=10)
    lease_time: Annotated[Duration, floor(21)] = timedelta(seconds=30)
    lease_renew: Annotated[Duration, floor(2)] = timedelta(seconds=5)
    gone_after: Annotated[Duration, floor(60)] = timedelta(seconds=60)
    delete_retry: Annotated[Duration, floor(5)] = timedelta(seconds=5)
    delete_retry_max: Annotated[Duration, floor(30)] = timedelta(minutes=5)
    delete_alarm: Annotated[Duration, floor(60)] = timedelta(minutes=15)
    alarm_repeat: Annotated[Duration, floor(300)] = timedelta(hours=1)
    closed_memory: Annotated[Duration, floor(86400)] = timedelta(days=30)
    disk_search: Annotated[Duration, floor(600)] = timedelta(hours=1)
    blind_drain: Annotated[Duration, floor(60)] = timedelta(minutes=30)
    in_flight_gap: Annotated[Duration, floor(2)] = timedelta(seconds=2)
    ssh_retry: Annotated[Duration, floor(5)] = timedelta(seconds=5)
    ssh_timeout: Annotated[Duration, floor(2)] = timedelta(seconds=10)
    ssh_keepalive: Annotated[Duration, floor(5)] = timedelta(seconds=15)
    diagnostics: Annotated[Duration, floor(10)] = timedelta(seconds=60)
    recheck: Annotated[Duration, floor(60)] = timedelta(hours=1)
    liveness: Annotated[Duration, floor(2)] = timedelta(seconds=10)
    unhealthy_after: Annotated[Duration, floor(5)] = timedelta(seconds=30)
    safe_mode_window: Annotated[Duration, floor(60)] = timedelta(minutes=10)
    safe_mode_starts: Annotated[int, Field(ge=2)] = 5
    balancer_grace: Annotated[Duration, floor(5)] = timedelta(seconds=45)
    balancer_absent_after: Annotated[Duration, floor(60)] = timedelta(minutes=10)
    signal_max_age: Annotated[Duration, floor(15)] = timedelta(seconds=60)
    start_caution: Annotated[Duration | None, floor(60)] = None  # default: one stabilization window
    deadman_after: Annotated[Duration | None, floor(21600)] = None  # default: never
    clock_jump: Annotated[Duration, floor(1)] = timedelta(seconds=2)
    store_wait: Annotated[Duration, floor(1)] = timedelta(seconds=5)
    retention: Annotated[Duration, floor(3600)] = timedelta(days=30)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.settling_time_min > self.settling_time_max:
            raise ValueError(
                f"settling_time_min: found {show_duration(self.settling_time_min)}, the most is "
                f"{show_duration(self.settling_time_max)} (settling_time_max)"
            )
        if self.deadman_after is not None and self.deadman_after < 3 * self.recheck:
            raise ValueError(
                f"deadman_after: found {show_duration(self.deadman_after)}, the least is "
                f"{show_duration(3 * self.recheck)}: nodes are visited once in recheck"
            )
        return self
