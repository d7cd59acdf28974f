"""Scale-ins behind a real HAProxy and the gateway, under load: how many requests fail. The only good figure is 0.

Models share one HAProxy (the configuration of `deploy/`, with an HTTP/2 port besides) and one gateway, which is its
activator and a way in of its own. Servers live, drain and are killed in the moment that nothing is in flight any more,
by the daemon's own evidence; a request forgotten there is cut, and counted. Clients ask all the time: kept HTTP/1.1
connections to both, and HTTP/2 by curl. Some answers stream for minutes. Meanwhile HAProxy is reloaded and the gateway
upgraded. Every token carries its request's number and its place, and every answer is looked at token by token.

`make lost-requests` is the long one: 1,000 scale-ins, and streams of three minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import structlog
import uvloop

from autoscaler.domain.ids import ModelName
from tests.world.askers import Appetite
from tests.world.fleet import Pace
from tests.world.lossless import Lossless, Trial

SHORT = Trial(
    scale_ins=200,
    models=tuple(ModelName(f"bench/Model-{number}") for number in range(4)),
    pace=Pace(at_once=8, serves_s=(2.0, 7.0), pass_s=0.5),
    appetite=Appetite(streams=4, longs=2, stream_s=(2.0, 13.0), long_s=20.0, gap_s=0.25),
    reloads=1,
    reload_s=20.0,
)
LONG = Trial(
    scale_ins=1000,
    models=tuple(ModelName(f"bench/Model-{number}") for number in range(20)),
    pace=Pace(at_once=8, serves_s=(5.0, 20.0)),
    appetite=Appetite(streams=2, longs=2, stream_s=(2.0, 12.0), long_s=180.0, curls=4),
    reloads=3,
    reload_s=100.0,
)


def main(trial: Trial = SHORT) -> int:
    """Run, and print the failed requests. Non-zero unless there are none, and every request was worked on once."""
    missing = [name for name in ("haproxy", "curl") if not (shutil.which(name) or _in_sbin(name))]
    if missing:
        print(f"missing: apt-get install {' '.join(missing)}", file=sys.stderr)
        return 1
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # a client that left is counted
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    want = trial.appetite
    print(
        f"{trial.scale_ins} scale-ins of {len(trial.models)} models, {trial.pace.at_once} servers each at most;"
        f" {2 * len(trial.models) * (want.streams + want.longs + want.shorts)} clients by HTTP/1.1, of which"
        f" {2 * len(trial.models) * want.longs} stream {want.long_s:g} s each time;"
        f" {want.curls} by HTTP/2; {trial.reloads} reloads of each balancer",
        flush=True,
    )
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="drain-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        run = Lossless(trial, Path(folder))
        runner.run(run.run(lambda now: _show(now, began)))
    return _print(run, time.monotonic() - began)


def _in_sbin(name: str) -> str | None:
    return shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _show(run: Lossless, began: float) -> None:
    books = run.books
    print(
        f"{time.monotonic() - began:5.0f} s  {len(run.fleet.drains_s):4} scale-ins, {run.fleet.draining:3} under way"
        f"  {books.whole.total():6} answers whole  {books.failed.total()} failed",
        flush=True,
    )


def _print(run: Lossless, took_s: float) -> int:
    fleet, books = run.fleet, run.books
    drains = sorted(fleet.drains_s)
    facts = {
        "bench": "drain",
        "scale_ins": len(drains),
        "took_s": round(took_s),
        "scale_ins_at_once_most": fleet.most,
        "drains_of_servers_with_requests": fleet.busy,
        "drains_of_a_models_last_server": fleet.last,
        "drains_taken_back": fleet.undrained,
        "reloads": run.reloads,
        "drain_s_p50": round(statistics.median(drains), 1),
        "drain_s_max": round(drains[-1], 1),
        "answers_whole": dict(books.whole),
        "answers_of_the_longest_whole": books.long,
        "tokens_checked": books.tokens,
        "requests_worked_on_twice": len(books.twice),
        "failed_requests": books.failed.total(),
        "failures": dict(books.failed),
    }
    for name, value in facts.items():
        print(f"  {name.replace('_', ' '):34} {value}")
    print(json.dumps(facts))
    return 1 if books.failed or books.twice else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="1,000 scale-ins, for 20 minutes")
    sys.exit(main(LONG if parser.parse_args().long else SHORT))
