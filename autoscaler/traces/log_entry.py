"""One line of an access log, as all formats are read: when, what work, how large. Never who, nor what was said."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import Enum, StrEnum
from zoneinfo import ZoneInfo

from autoscaler.errors import ConfigError

_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
        start=1,
    )
}
_CACHED_MINUTES = 4096
_EARLIEST, _LATEST = 946_684_800.0, 4_102_444_800.0  # the years 2000 to 2100
_MODEL_NAME = 200
_REQUEST_HEAD, _RESPONSE_HEAD = 400, 160  # curl sends 200, the openai package 600


class Work(Enum):
    """What a request makes an engine do."""

    GENERATES = "generates"
    EMBEDS = "embeds"  # or ranks, scores, classifies: one pass over the prompt, no tokens out


class Why(StrEnum):
    """Why a line is no request of the trace."""

    UNREADABLE = "not a line of this format"
    CUT = "a last line that is cut off"
    LONG = "longer than 16 MiB"
    NO_TIME = "no time that can be read"
    OTHER = "not a request for inference"
    FAILED = "refused, failed or given up (status)"
    CACHED = "answered from a cache before any engine"
    NO_PROMPT = "size of the prompt unknown (give --prompt-tokens)"
    NO_OUTPUT = "size of the answer unknown (give --output-tokens)"
    BEYOND = "more tokens than a request has"
    MODEL = "of another model"
    CROWD = "of one model too many (1000 are kept apart)"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a line says; None where it does not.

    Attributes:
        at: when the whole request had come, Unix seconds.
        status: HTTP's; 0 is an answer that never came.
        request_bytes, response_bytes: of the bodies.
        streamed: whether the answer came token by token.
        answer_s: how long it took.
        at_end: `at` is when the answer had ended: its length is unknown.
        whole_second: `at` is rounded to a second.
        cached: a cache before the engines answered.
    """

    at: float
    work: Work
    status: int | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    streamed: bool | None = None
    answer_s: float | None = None
    at_end: bool = False
    whole_second: bool = False
    cached: bool = False


_GENERATES = frozenset(
    ("completions", "completion", "responses", "messages", "generate", "generate_stream", "infill")
)
_EMBEDS = frozenset(
    (
        *("embeddings", "embedding", "embed", "embed_all", "embed_sparse", "rerank", "reranking"),
        *("score", "classify", "pooling", "encode", "predict", "similarity"),
    )
)


def body_of_request(size: int | None) -> int | None:
    """What is left of a request's bytes without line and headers, which no log tells apart."""
    return None if size is None else max(0, size - _REQUEST_HEAD)


def body_of_answer(size: int | None) -> int | None:
    """What is left of an answer's bytes without its headers."""
    return None if size is None else max(0, size - _RESPONSE_HEAD)


def work_of(method: str, target: str) -> Work | None:
    """What a POST to this target makes an engine do, whatever prefix its path has; None is something else."""
    if method != "POST":
        return None
    before, _, last = target.partition("?")[0].rstrip("/").rpartition("/")
    if last in _GENERATES or (last == "chat" and before.endswith("api")):
        return Work.GENERATES
    return Work.EMBEDS if last in _EMBEDS else None


def is_stream(content_type: str) -> bool | None:
    """Whether an answer of this type came token by token."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("text/event-stream", "application/x-ndjson"):
        return True
    return False if kind == "application/json" else None


def model_name(found: object) -> str | None:
    """A model's name that can be printed, or None."""
    if not isinstance(found, str) or not found.strip() or found == "-":
        return None
    return "".join(c if c.isprintable() else "?" for c in found.strip()[:_MODEL_NAME])


def whole_number(found: object) -> int | None:
    """A count that is a number, or a text of one; a negative or broken one is None."""
    if isinstance(found, bool):
        return None
    if isinstance(found, str):
        text = found.strip().removeprefix("+")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else None
    if isinstance(found, float):
        return int(found) if found.is_integer() and 0 <= found < 2**53 else None
    return found if isinstance(found, int) and found >= 0 else None


def zone_named(name: str) -> tzinfo:
    """A time zone of the system's database. Raises `ConfigError`."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f"zone: found {name[:40]!r}, allowed: a name of the tz database, as Europe/Prague or UTC"
        ) from None


class Stamps:
    """Reads stamps as logs write them.

    Args:
        zone: of those that name none.
        newest: about when the log ends, for those without a year.
    """

    def __init__(self, zone: tzinfo = UTC, newest: datetime | None = None) -> None:
        self._zone = zone
        self._newest = newest
        self._minutes: dict[tuple[str, str], float] = {}

    def common(self, text: str, zone: str = "") -> float | None:
        """Unix seconds of `24/Nov/2026:04:12:37`, with `.123` perhaps, and of its zone ` +0100` if it has one."""
        try:
            start = self._minute(text[:17], zone.strip())
            return None if start is None else start + float(text[18:])
        except (ValueError, OverflowError):
            return None

    def iso(self, text: str) -> float | None:
        """Unix seconds of an ISO 8601 stamp."""
        try:
            return self._unix(datetime.fromisoformat(text.strip()))
        except (ValueError, OverflowError):
            return None

    def unix(self, number: float) -> float | None:
        """Unix seconds of a number of seconds, or of milli-, micro- or nanoseconds."""
        for scale in (1.0, 1e3, 1e6, 1e9):
            if _EARLIEST <= number / scale < _LATEST:
                return number / scale
        return None

    def any(self, found: object) -> float | None:
        """Unix seconds of a stamp in one of these forms."""
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            return None
        if not isinstance(found, str):
            return self.unix(found)
        text = found.strip()
        if text[2:3] == "/":
            stamp, _, zone = text.partition(" ")
            return self.common(stamp, zone)
        try:
            return self.unix(float(text))
        except ValueError:
            return self.iso(text)

    def without_year(self, month: int, day: int, clock: tuple[int, int, int]) -> float | None:
        """Unix seconds of a day and time in the last year before the log's end."""
        newest = self._newest or datetime.now(UTC)
        for year in range(newest.year + 1, newest.year - 9, -1):
            try:
                at = datetime(year, month, day, *clock, tzinfo=self._zone)
            except ValueError:  # 29 February: another year
                continue
            if at <= newest + timedelta(days=1):
                return self._unix(at)
        return None

    def _minute(self, text: str, zone: str) -> float | None:
        """Unix seconds of `24/Nov/2026:04:12`; the last few thousand are remembered."""
        known = self._minutes.get((text, zone))
        if known is not None:
            return known
        numbers = (text[:2], text[7:11], text[12:14], text[15:17])
        month = _MONTHS.get(text[3:6])
        if month is None or not all(n.isascii() and n.isdigit() for n in numbers):
            return None
        day, year, hour, minute = map(int, numbers)
        at = datetime(year, month, day, hour, minute, tzinfo=self._zone)
        if zone:
            at = at.replace(tzinfo=datetime.strptime(zone, "%z").tzinfo)
        if len(self._minutes) >= _CACHED_MINUTES:
            self._minutes.clear()
        found = self._unix(at)
        if found is not None:
            self._minutes[text, zone] = found
        return found

    def _unix(self, stamp: datetime) -> float | None:
        aware = stamp if stamp.tzinfo else stamp.replace(tzinfo=self._zone)
        return self.unix(aware.timestamp())
