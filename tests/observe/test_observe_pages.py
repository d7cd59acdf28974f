"""vLLM's, SGLang's and mapped pages, served over HTTP and read as figures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp
import pytest

from autoscaler.domain.signals import FigureName, Partiality
from autoscaler.observe.dialect import Dialect
from autoscaler.observe.latency import LatencySettings
from autoscaler.observe.mapping import TEI_MAPPING, TGI_MAPPING, mapped
from autoscaler.observe.pages import PageSettings, PageSource
from autoscaler.observe.protocol import Reading
from autoscaler.observe.sglang import SGLANG
from autoscaler.observe.vllm import VLLM

if TYPE_CHECKING:
    from tests.observe.conftest import AsTarget, Serve

F = FigureName


def histogram(name: str, labels: str, cumulative: dict[str, int]) -> str:
    lines = [f'{name}_bucket{{{labels},le="{le}"}} {n}' for le, n in cumulative.items()]
    total = max(cumulative.values())
    return "\n".join([f"# TYPE {name} histogram", *lines, f"{name}_count{{{labels}}} {total}"])


def vllm_page(
    done: int = 0,
    *,
    waiting: float = 0,
    running: float = 0,
    kv: float = 0.1,
    tokens: int = 0,
    slow: int = 0,
    engines: Sequence[int] = (0,),
    model: str = "m",
    started: float | None = 1000.0,
    generation: int = 1,
) -> str:
    """A page as vLLM writes it: generation 0 is V0's names, 1 is V1's."""
    itl = "inter_token_latency" if generation else "time_per_output_token"
    cache = "kv_cache_usage_perc" if generation else "gpu_cache_usage_perc"
    parts = ["# HELP python_info x", "# TYPE python_info gauge", 'python_info{version="3.12"} 1.0']
    if started is not None:
        parts.append(f"process_start_time_seconds {started}")
    for engine in engines:
        labels = f'model_name="{model}"' + (f',engine="{engine}"' if generation else "")
        parts += [
            f"vllm:num_requests_waiting{{{labels}}} {waiting}",
            f"vllm:num_requests_running{{{labels}}} {running}",
            f"vllm:{cache}{{{labels}}} {kv}",
            f"vllm:prompt_tokens_total{{{labels}}} {tokens * 4}",
            f"vllm:generation_tokens_total{{{labels}}} {tokens}",
            f'vllm:request_success_total{{{labels},finished_reason="stop"}} {done}',
            f'vllm:request_success_total{{{labels},finished_reason="abort"}} 0',
            histogram(
                "vllm:time_to_first_token_seconds",
                labels,
                {"0.1": done - slow, "0.25": done - slow, "0.5": done - slow, "1.0": done}
                | {"+Inf": done},
            ),
            histogram(
                f"vllm:{itl}_seconds",
                labels,
                {"0.025": done * 5, "0.05": done * 9, "0.075": done * 10, "+Inf": done * 10},
            ),
        ]
    return "\n".join(parts) + "\n"


def source(
    session: aiohttp.ClientSession, dialect: Dialect = VLLM, max_running: int | None = 256
) -> PageSource:
    settings = PageSettings(
        timeout_s=1.0,
        max_running=max_running,
        latency=LatencySettings(min_observations=10),
    )
    return PageSource("engine", dialect, "m", session, settings)


def figures(reading: Reading) -> dict[FigureName, float]:
    return {name: figure.value for name, figure in reading.figures}


def reason(reading: Reading, name: FigureName) -> str:
    return next(gap.reason for gap in reading.gaps if gap.figure is name)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


@pytest.mark.parametrize("generation", [0, 1])
async def test_both_generations_of_vllm_give_all_figures(
    serve: Serve,
    session: aiohttp.ClientSession,
    target: AsTarget,
    noon: datetime,
    generation: int,
) -> None:
    server = await serve("")
    reader = source(session)

    for step in range(5):
        server.text = vllm_page(
            30 * step,
            waiting=2,
            running=6,
            kv=0.4,
            tokens=600 * step,
            slow=6 * step,
            generation=generation,
        )
        reading = await reader.read(target(server.url), noon + seconds(15 * step))

    assert figures(reading) == pytest.approx(
        {
            F.WAITING: 2,
            F.RUNNING: 6,
            F.KV_USE: 0.4,
            F.ARRIVALS: 2.0,
            F.PROMPT_TOKENS: 160,
            F.OUTPUT_TOKENS: 40,
            F.TTFT_P50: 0.0625,
            F.TTFT_P95: 0.875,
            F.TTFT_ATTAINED: 0.8,
            F.ITL_P50: 0.025,
            F.ITL_P95: 0.0625,
            F.ITL_ATTAINED: 0.9,
        }
    )
    assert all(figure.partiality is Partiality.FULL for _, figure in reading.figures)
    assert [gap.figure for gap in reading.gaps] == [F.QUEUE_P95]


async def test_engines_of_one_server_and_servers_of_one_model_add_up(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    one = await serve(vllm_page(waiting=2, running=6, kv=0.2, engines=(0, 1)))
    other = await serve(vllm_page(waiting=1, running=3, kv=0.7))

    reading = await source(session).read(target(one.url, other.url), noon)

    found = figures(reading)
    assert (found[F.WAITING], found[F.RUNNING], found[F.KV_USE]) == (5, 15, 0.7)


async def test_only_capacity_waiting_counts_where_vllm_splits_it(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    by_reason = "vllm:num_requests_waiting_by_reason"
    server = await serve(
        vllm_page(waiting=9)
        + f'{by_reason}{{model_name="m",reason="capacity"}} 4\n'
        + f'{by_reason}{{model_name="m",reason="deferred"}} 5\n'
    )

    reading = await source(session).read(target(server.url), noon)

    assert figures(reading)[F.WAITING] == 4


async def test_arrivals_are_what_finished_plus_what_grew_inside(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    server = await serve(vllm_page(0, running=0))
    reader = source(session)
    await reader.read(target(server.url), noon)

    server.text = vllm_page(10, running=16, waiting=4)
    reading = await reader.read(target(server.url), noon + seconds(30))

    assert figures(reading)[F.ARRIVALS] == pytest.approx(1.0)


async def test_a_page_of_another_model_is_not_this_models_demand(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    server = await serve(vllm_page(model="x", running=5) + vllm_page(model="y", running=7))

    reading = await source(session).read(target(server.url), noon)

    assert reading.figures == ()
    assert "serves x, y" in reason(reading, F.RUNNING)


async def test_one_dead_replica_of_ten_is_scaled_and_marked_and_three_are_missing(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    urls = [(await serve(vllm_page(running=9))).url for _ in range(10)]
    broken = await serve("")
    broken.status = 500

    nine = await source(session).read(target(*urls[:9], broken.url), noon)
    others = [f"{broken.url}/{n}" for n in range(3)]
    seven = await source(session).read(target(*urls[:7], *others), noon)

    running = dict(nine.figures)[F.RUNNING]
    assert running.value == pytest.approx(90)
    assert running.partiality is Partiality.PARTIAL
    assert seven.figures == ()
    assert "7 of 10 pages" in reason(seven, F.RUNNING)
    assert "500" in reason(seven, F.RUNNING)


async def test_samples_that_the_page_itself_dates_back_are_not_read(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    now_ms = int(noon.timestamp() * 1000)
    labels = 'model_name="m"'
    server = await serve(
        f"vllm:num_requests_running{{{labels}}} 4 {now_ms - 5_000}\n"
        f"vllm:num_requests_waiting{{{labels}}} 9 {now_ms - 300_000}\n"
    )

    reading = await source(session).read(target(server.url), noon)

    assert figures(reading) == {F.RUNNING: 4}
    assert reason(reading, F.WAITING) == "no such series on the page"


async def test_no_node_is_neither_a_zero_nor_an_error(
    session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    reading = await source(session).read(target(), noon)

    assert reading.figures == ()
    assert not reading.idle
    assert reason(reading, F.RUNNING) == "no node is up: nothing to ask"


async def test_a_starting_node_counts_in_sums_but_not_in_averages(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    old, fresh = await serve(""), await serve("")
    reader = source(session)

    for step in range(5):
        old.text = vllm_page(20 * step, running=1, kv=0.3)
        fresh.text = vllm_page(20 * step, running=2, kv=0.9, slow=20 * step)
        reading = await reader.read(
            target(old.url, fresh.url, starting=("n1",)), noon + seconds(15 * step)
        )

    found = figures(reading)
    assert (found[F.RUNNING], found[F.KV_USE], found[F.TTFT_ATTAINED]) == (3, 0.3, 1.0)


async def test_more_running_than_can_run_is_not_believed(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    server = await serve(vllm_page(running=400, waiting=1))

    reading = await source(session).read(target(server.url), noon)

    assert F.RUNNING not in figures(reading)
    assert "400" in reason(reading, F.RUNNING)
    assert figures(reading)[F.WAITING] == 1


async def test_too_few_observations_look_further_back_and_then_say_so(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    server = await serve("")
    reader = source(session)
    done, told = 0, []

    for step in range(0, 100):  # one request a minute for 15 minutes, then none
        done += 1 if step % 4 == 1 and step < 60 else 0
        server.text = vllm_page(done)
        reading = await reader.read(target(server.url), noon + seconds(15 * step))
        told.append("given" if F.TTFT_P95 in figures(reading) else reason(reading, F.TTFT_P95))

    assert told[20] == "5 observations, fewer than 10"
    assert told[60] == "given"  # five in 5 minutes, ten in 10


async def test_sglang_ranks_count_once_and_live_token_counters_are_preferred(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    server = await serve("")
    reader = source(session, SGLANG)

    def page(step: int) -> str:
        lines = ["process_start_time_seconds 5"]
        for rank in range(2):
            base = f'model_name="m",engine_type="unified",tp_rank="{rank}",pp_rank="0"'
            lines += [
                f"sglang:num_running_reqs{{{base}}} 7",
                f"sglang:num_queue_reqs{{{base}}} 3",
                f"sglang:token_usage{{{base}}} 0.{5 + rank}",
                f'sglang:realtime_tokens_total{{{base},mode="prefill_compute"}} {100 * step}',
                f'sglang:realtime_tokens_total{{{base},mode="prefill_cache"}} {50 * step}',
                f'sglang:realtime_tokens_total{{{base},mode="decode"}} {30 * step}',
                f"sglang:prompt_tokens_total{{{base}}} 1",
                f"sglang:generation_tokens_total{{{base}}} 1",
                f"sglang:num_requests_total{{{base}}} {15 * step}",
                f"sglang:num_aborted_requests_total{{{base}}} 0",
                histogram(
                    "sglang:time_to_first_token_seconds",
                    base,
                    {"0.1": 12 * step, "0.5": 15 * step, "+Inf": 15 * step},
                ),
            ]
        return "\n".join(lines)

    for step in range(5):
        server.text = page(step)
        reading = await reader.read(target(server.url), noon + seconds(15 * step))

    found = figures(reading)
    assert (found[F.WAITING], found[F.RUNNING], found[F.KV_USE]) == (3, 7, 0.6)
    assert found[F.PROMPT_TOKENS] == pytest.approx(10)
    assert found[F.OUTPUT_TOKENS] == pytest.approx(2)
    assert found[F.ARRIVALS] == pytest.approx(1)
    assert found[F.TTFT_ATTAINED] == pytest.approx(1.0)


async def test_a_mapping_reads_tgi_and_the_embedding_server(
    serve: Serve, session: aiohttp.ClientSession, target: AsTarget, noon: datetime
) -> None:
    tgi, tei = await serve(""), await serve("")
    readers = [
        source(session, mapped("tgi", TGI_MAPPING)),
        source(session, mapped("e", TEI_MAPPING)),
    ]

    for step in range(5):
        buckets = {"0.01": 10 * step, "0.1": 30 * step, "+Inf": 30 * step}
        tgi.text = "\n".join(
            [
                "tgi_queue_size 4",
                "tgi_batch_current_size 12",
                f"tgi_request_count {30 * step}",
                histogram("tgi_request_mean_time_per_token_duration", 'x="1"', buckets),
                histogram("tgi_request_queue_duration", 'x="1"', buckets),
            ]
        )
        tei.text = "\n".join(
            [
                "te_queue_size 2",
                f'te_request_count{{method="single"}} {20 * step}',
                f'te_request_count{{method="batch"}} {10 * step}',
                histogram("te_request_duration", 'x="1"', buckets),
            ]
        )
        at = noon + seconds(15 * step)
        of_tgi = figures(await readers[0].read(target(tgi.url), at))
        of_tei = figures(await readers[1].read(target(tei.url), at))

    assert (of_tgi[F.WAITING], of_tgi[F.RUNNING], of_tgi[F.ARRIVALS]) == (4, 12, 2)
    assert of_tgi[F.ITL_ATTAINED] == pytest.approx(1 / 3)
    assert (of_tei[F.WAITING], of_tei[F.ARRIVALS]) == (2, 2)
    assert of_tei[F.TTFT_P95] < 0.1
