"""Fetches one Prometheus text page, and believes as little of it as possible.

A page comes from a machine that serves strangers' prompts. So its size is bounded before and after inflating, its time
is bounded, redirects are not followed, link-local addresses (the cloud's metadata service) are never asked, and only
the lines whose names we asked for are parsed at all, each bounded in length and all in number.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from autoscaler.errors import SourceUnavailable

MAX_BYTES = 8 * 1024 * 1024
MAX_LINES = 200_000
MAX_SERIES = 20_000
MAX_LINE_BYTES = 4096
# A counter beyond this is nonsense, and a float beyond 2**53 counts no more.
MAX_VALUE = 2.0**53
_PARSE_IN_THREAD_BYTES = 256 * 1024
START_TIMES = frozenset({"process_start_time_seconds", "haproxy_process_start_time_seconds"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a page. `value` is finite or NaN."""

    name: str
    labels: Mapping[str, str]
    value: float
    at: float | None = None  # Unix seconds, only where the page states one


@dataclass(frozen=True, slots=True)
class Page:
    """What one fetch gave.

    Attributes:
        samples: only of the names asked for.
        uptime_s: how long the server's process has run by the server's own clock, or None when it does not say.
        started_s: the server's own start time, as an identity only: it changes when the process does.
    """

    samples: tuple[Sample, ...]
    uptime_s: float | None = None
    started_s: float | None = None


Head = tuple[str, Mapping[str, str]]  # a series' name and labels


class Wanted:
    """The exact names of a page that are read. Everything else is skipped unparsed.

    What stands before a line's value is the same in each scrape, so it is parsed once and remembered: a page of 90
    wanted series then costs 0.2 ms instead of 1.6.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names) | START_TIMES
        self._heads: dict[str, Head | None] = {}
        alternatives = b"|".join(re.escape(name.encode()) for name in sorted(self.names))
        self.pattern = re.compile(rb"^[ \t]*(?:" + alternatives + rb")[ \t{][^\n]*", re.MULTILINE)

    def head(self, text: str) -> Head | None:
        """Parse what stands before a line's value; None when it is no series that is wanted."""
        if text not in self._heads:
            if len(self._heads) >= MAX_SERIES:
                self._heads.clear()
            self._heads[text] = self._parse_head(text)
        return self._heads[text]

    def _parse_head(self, text: str) -> Head | None:
        try:
            family = next(iter(text_string_to_metric_families(f"{text} 0")), None)
        except (ValueError, IndexError, KeyError):
            return None
        if family is None or not family.samples:
            return None
        sample = family.samples[0]
        return (sample.name, sample.labels) if sample.name in self.names else None


async def fetch_page(
    session: aiohttp.ClientSession, url: str, wanted: Wanted, timeout_s: float
) -> Page:
    """Fetch and parse one page.

    Raises:
        SourceUnavailable: no answer in time, not 200, too large, or not a metrics page.
    """
    try:
        async with asyncio.timeout(timeout_s):
            body, headers = await get(session, url)
            if len(body) < _PARSE_IN_THREAD_BYTES:
                samples = parse_page(body, wanted)
            else:
                samples = await asyncio.to_thread(parse_page, body, wanted)
    except TimeoutError as exc:
        raise SourceUnavailable(f"no page within {timeout_s:g} s") from exc
    started_s = next((s.value for s in samples if s.name in START_TIMES and s.value > 0), None)
    return Page(
        tuple(sample for sample in samples if sample.name not in START_TIMES),
        _uptime_s(started_s, headers.get("Date")),
        started_s,
    )


async def get(session: aiohttp.ClientSession, url: str) -> tuple[bytes, Mapping[str, str]]:
    """GET a body of at most `MAX_BYTES`, inflated or not. The caller bounds the time.

    Raises:
        SourceUnavailable: refused, not 200, or too large.
    """
    await refuse_link_local(url)
    try:
        async with session.get(
            url,
            allow_redirects=False,
            auto_decompress=False,
            headers={"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "gzip, identity"},
        ) as response:
            if response.status != 200:
                raise SourceUnavailable(f"answered {response.status}, not 200")
            return await read_body(response), response.headers
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise SourceUnavailable(f"cannot be reached: {type(exc).__name__}") from exc


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read a body of at most `MAX_BYTES` before and after inflating; the session must not inflate.

    Raises:
        SourceUnavailable: larger, or of an encoding that we did not ask for.
    """
    body = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > MAX_BYTES:
            raise SourceUnavailable(f"the body is larger than {MAX_BYTES} bytes")
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return bytes(body)
    if encoding != "gzip":
        raise SourceUnavailable("the body's encoding is not one that was asked for")
    inflater = zlib.decompressobj(wbits=31)
    try:
        inflated = inflater.decompress(bytes(body), MAX_BYTES + 1)
    except zlib.error as exc:
        raise SourceUnavailable("the body is not the gzip that it says it is") from exc
    if len(inflated) > MAX_BYTES:
        raise SourceUnavailable(f"the body is larger than {MAX_BYTES} bytes once inflated")
    return inflated


async def refuse_link_local(url: str) -> None:
    """Refuse an address of 169.254.0.0/16 or fe80::/10, however it is written.

    Raises:
        SourceUnavailable: it is one, or the name cannot be resolved.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        addresses = [ipaddress.ip_address(host)]
    except ValueError:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, parts.port or 0)
        except OSError as exc:
            raise SourceUnavailable(f"the name {host[:80]!r} cannot be resolved") from exc
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        mapped = getattr(address, "ipv4_mapped", None) or address
        if mapped.is_link_local:
            raise SourceUnavailable(f"{host[:80]} is link-local: such addresses are never asked")


def parse_page(body: bytes, wanted: Wanted) -> tuple[Sample, ...]:
    """Parse the wanted lines. A line that cannot be read is skipped: the others may still be true.

    Raises:
        SourceUnavailable: HTML, too many lines, or too many wanted series.
    """
    if body.lstrip()[:1] == b"<":
        raise SourceUnavailable("an HTML page, not metrics: see that the path is right")
    if body.count(b"\n") > MAX_LINES:
        raise SourceUnavailable(f"the page has more than {MAX_LINES} lines")
    samples: list[Sample] = []
    for found in wanted.pattern.finditer(body):
        line = found[0]
        if len(line) > MAX_LINE_BYTES:
            continue
        if len(samples) >= MAX_SERIES:
            raise SourceUnavailable(f"the page has more than {MAX_SERIES} series of interest")
        sample = _parse_line(line.decode("utf-8", "replace"), wanted)
        if sample is not None:
            samples.append(sample)
    return tuple(samples)


def _parse_line(line: str, wanted: Wanted) -> Sample | None:
    line = line.strip()
    end = line.rfind("}") + 1 or len(line.split(maxsplit=1)[0])
    head = wanted.head(line[:end])
    values = line[end:].split()
    if head is None or not 1 <= len(values) <= 2:
        return None
    value, at = _number(values[0]), None
    if len(values) == 2:
        milliseconds = _number(values[1])
        if milliseconds is None:
            return None
        at = milliseconds / 1000
    return None if value is None else Sample(*head, value, at)


def _number(text: str) -> float | None:
    """Read a value; what is beyond counting is NaN, what is no number is None."""
    try:
        value = float(text)
    except ValueError:
        return None
    if "_" in text:  # Python's own notation, not the format's
        return None
    return value if abs(value) <= MAX_VALUE else math.nan


def _uptime_s(started_s: float | None, date: str | None) -> float | None:
    """How long the process has run, by the server's clock alone, so that its skew cancels out."""
    if started_s is None or date is None:
        return None
    try:
        then = parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    uptime_s = then.timestamp() - started_s
    return uptime_s if uptime_s > -2 else None
