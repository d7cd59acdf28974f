"""Pages of every kind of malice: bounded, refused, or read for the true lines in them."""

from __future__ import annotations

import asyncio
import gzip
import math
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.errors import SourceUnavailable
from autoscaler.observe import page as pages
from autoscaler.observe.dialect import read_samples
from autoscaler.observe.page import Page, Wanted, fetch_page, parse_page
from autoscaler.observe.vllm import VLLM

if TYPE_CHECKING:
    from tests.observe.conftest import Serve

WANTED = Wanted(("up", "up_total", "h_bucket"))


def values(body: str | bytes) -> list[float]:
    raw = body.encode() if isinstance(body, str) else body
    return [sample.value for sample in parse_page(raw, WANTED)]


async def fetch(session: aiohttp.ClientSession, url: str, timeout_s: float = 2.0) -> Page:
    return await fetch_page(session, url, WANTED, timeout_s)


def test_only_the_exact_names_asked_for_are_read() -> None:
    body = 'up 1\nup{a="b"} 2\nupper 3\nup_more 4\nxup 5\n# up 6\nup_total{x="y"} 7 1700000000000\n'

    assert values(body) == [1, 2, 7]


@pytest.mark.parametrize(
    "line",
    [
        "up",
        "up{",
        'up{a="b} 1',
        "up one",
        "up 1 2 3 4",
        'up{="x"} 1',
        "up{{}} 1",
        "up 0x10",
        "up 1_0",
        "up 1 soon",
        "up \x00",
        'up{a="' + "x" * 5000 + '"} 1',
    ],
)
def test_a_line_that_cannot_be_read_does_not_hide_the_next(line: str) -> None:
    assert values(f"{line}\nup 3\n")[-1] == 3


@pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf", "1e300", "-1e300", "1e999"])
def test_values_beyond_counting_become_not_a_number(text: str) -> None:
    assert [math.isnan(value) for value in values(f"up {text}\n")] == [True]


def test_what_is_not_utf8_is_read_as_far_as_it_is() -> None:
    assert values(b'\xff\xfe junk\nup{a="\xff"} 4\n') == [4]


def test_html_is_refused_with_a_hint() -> None:
    with pytest.raises(SourceUnavailable, match="HTML"):
        values("  <!DOCTYPE html><html>up 1</html>")


def test_a_million_lines_and_a_flood_of_series_are_refused() -> None:
    with pytest.raises(SourceUnavailable, match="lines"):
        values(b"x 1\n" * 1_000_000)
    with pytest.raises(SourceUnavailable, match="series"):
        values(b"up 1\n" * (pages.MAX_SERIES + 1))


def test_a_series_with_endless_labels_is_skipped() -> None:
    labels = ",".join(f'l{n}="v"' for n in range(2000))

    assert values(f"up{{{labels}}} 1\nup 2\n") == [2]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.text(max_size=200))
def test_no_page_whatever_breaks_the_reader(junk: bytes, text: str) -> None:
    label = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    body = b"up " + junk + b'\nup_total{a="' + label.encode("utf-8", "replace") + b'"} 5\n' + junk
    try:
        samples = parse_page(body, WANTED)
    except SourceUnavailable:
        return

    for sample in samples:
        assert sample.name in WANTED.names
        assert math.isnan(sample.value) or abs(sample.value) <= pages.MAX_VALUE


line_values = st.one_of(
    st.floats().map(repr), st.sampled_from(["NaN", "+Inf", "-1", "1e300", "x", ""])
)
le_values = st.sampled_from(["0.1", "1", "1.0", "+Inf", "inf", "nan", "-1", "x", ""])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(VLLM.series_names())), le_values, line_values)))
def test_whatever_a_vllm_page_says_only_finite_counts_come_out(
    lines: list[tuple[str, str, str]],
) -> None:
    body = "".join(f'{name}{{model_name="m",le="{le}"}} {value}\n' for name, le, value in lines)

    scrape = read_samples(VLLM, parse_page(body.encode(), Wanted(VLLM.series_names())), "m")

    for value in (*scrape.counters.values(), *scrape.gauges.values()):
        assert 0 <= value < math.inf


@given(st.text(max_size=60))
def test_a_date_of_any_kind_gives_an_age_or_none(date: str) -> None:
    age = pages._uptime_s(1.0, date)

    assert age is None or age > -2


def test_the_same_series_is_read_anew_each_time() -> None:
    wanted = Wanted(("up",))

    first = parse_page(b'up{a="}"} 1\nup{a="b"} 2\n', wanted)
    second = parse_page(b'up{a="}"} 3\nup{a="c"} 4 1000\n', wanted)

    assert [(s.labels["a"], s.value, s.at) for s in (*first, *second)] == [
        ("}", 1, None),
        ("b", 2, None),
        ("}", 3, None),
        ("c", 4, 1.0),
    ]


async def test_a_page_larger_than_the_cap_is_cut_off(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve("up 1\n" + "#" * (pages.MAX_BYTES + 1))

    with pytest.raises(SourceUnavailable, match="larger than"):
        await fetch(session, server.url, 10)


async def test_a_bomb_is_not_inflated_beyond_the_cap(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve()
    server.text = gzip.compress(b"#" * (64 * 1024 * 1024), 9)
    server.headers = {"Content-Encoding": "gzip"}

    with pytest.raises(SourceUnavailable, match="once inflated"):
        await fetch(session, server.url, 10)


async def test_an_honest_gzip_page_is_read_and_a_false_one_refused(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    honest, false, strange = await serve(), await serve("up 1\n"), await serve()
    honest.text = gzip.compress(b"up 1\n")
    honest.headers = false.headers = {"Content-Encoding": "gzip"}
    strange.text = zlib.compress(b"up 1\n")
    strange.headers = {"Content-Encoding": "br"}

    assert [s.value for s in (await fetch(session, honest.url)).samples] == [1]
    with pytest.raises(SourceUnavailable, match="not the gzip"):
        await fetch(session, false.url)
    with pytest.raises(SourceUnavailable, match="encoding"):
        await fetch(session, strange.url)


async def test_redirects_are_not_followed(serve: Serve, session: aiohttp.ClientSession) -> None:
    elsewhere, server = await serve("up 1\n"), await serve()
    server.status, server.headers = 302, {"Location": elsewhere.url}

    with pytest.raises(SourceUnavailable, match="302"):
        await fetch(session, server.url)
    assert elsewhere.asked == 0


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "2852039166", "0xa9fea9fe", "[fe80::1]", "[::ffff:169.254.169.254]"],
)
async def test_link_local_addresses_are_never_asked(
    session: aiohttp.ClientSession, host: str
) -> None:
    with pytest.raises(SourceUnavailable, match=r"link-local|cannot be resolved"):
        await fetch(session, f"http://{host}/latest/meta-data")


async def test_a_server_that_trickles_is_given_up_in_time(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    server = await serve()

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"up 1\n")
        await asyncio.Event().wait()
        return response

    server.answer = trickle
    with pytest.raises(SourceUnavailable, match=r"no page within 0\.2 s"):
        await fetch(session, server.url, 0.2)


async def test_the_processs_age_is_by_its_own_clock(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=3)  # this node's clock is three hours ahead
    server = await serve(f"process_start_time_seconds {ahead.timestamp() - 40}\nup 1\n")
    server.headers = {"Date": format_datetime(ahead, usegmt=True)}

    page = await fetch(session, server.url)

    assert page.uptime_s == pytest.approx(40, abs=1.5)
    assert [sample.name for sample in page.samples] == ["up"]
