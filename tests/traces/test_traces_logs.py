"""Logs of proxies and gateways become a trace: what counts, how large it is taken for, and what is said of the rest."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from autoscaler.cli.app import app
from autoscaler.errors import ConfigError
from autoscaler.traces import log_lines, log_sort
from autoscaler.traces.log_entry import Entry, Stamps, Why, Work, work_of, zone_named
from autoscaler.traces.log_format import LogFormat, reader_of
from autoscaler.traces.log_lines import Line
from autoscaler.traces.log_report import LogReport
from autoscaler.traces.log_sizes import LogOptions
from autoscaler.traces.logs import read_logs
from autoscaler.traces.reader import read_trace
from autoscaler.traces.request import TracedRequest

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC).timestamp()
SIZED = LogOptions(prompt_tokens=600)
STAMPS = Stamps(newest=datetime(2026, 11, 25, tzinfo=UTC))
CHAT = "POST /v1/chat/completions HTTP/1.1"

# as HAProxy 2.6 and nginx 1.22 wrote them
HAPROXY = (
    "<134>Nov 24 12:00:00 haproxy[1965]: 127.0.0.1:39524 [24/Nov/2026:12:00:00.837] in chat/as-1 "
    '20/0/0/517/537 200 660 - - ---- 1/1/0/0/0 0/0 {application/json; charset=utf-8} "POST '
    '/v1/chat/completions?key=secret HTTP/1.1"'
)
NGINX = '127.0.0.1 - - [24/Nov/2026:12:00:30 +0000] "POST /v1/chat/completions?key=secret HTTP/1.1" 200 23112 "-" "-"'


def haproxy(
    stamp: str = "24/Nov/2026:12:00:00.000",
    *,
    backend: str = "chat",
    timers: str = "0/0/1/200/4800",
    status: object = 200,
    size: object = 23_720,
    captured: str = "",
    request: str = CHAT,
) -> str:
    return (
        f"10.0.0.7:51234 [{stamp}] in~ {backend}/as-1 {timers} {status} {size} - - ---- 9/9/8/3/0 0/0 "
        f'{captured}"{request}"'
    )


def nginx(stamp: str, status: int = 200, size: int = 23_560, more: str = "") -> str:
    return f'203.0.113.5 - joe [{stamp}] "{CHAT}" {status} {size} "https://x/" "curl \\"8\\""{more}'


def answered(**fields: object) -> str:
    """A line of a gateway's."""
    known: dict[str, object] = {
        "started": NOON,
        "path": "/v1/chat/completions",
        "usage": {"prompt_tokens": 100, "completion_tokens": 7},
    }
    return json.dumps({name: v for name, v in (known | fields).items() if v is not None})


def log(tmp_path: Path, *lines: str, name: str = "access.log") -> Path:
    path = tmp_path / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def read(
    tmp_path: Path, *lines: str, options: LogOptions = SIZED
) -> tuple[list[TracedRequest], LogReport]:
    with read_logs([log(tmp_path, *lines)], options) as trace:
        return list(trace), trace.report


def why(report: LogReport) -> dict[Why, int]:
    return {skipped.why: skipped.lines for skipped in report.skipped}


def parsed(format: LogFormat, text: str) -> Entry | Why:
    ((_, found),) = reader_of(format)(iter([Line(1, text)]), STAMPS)
    return found


# --- what the lines of each format say


@pytest.mark.parametrize(
    ("captured", "size"),
    [
        ("{2497} {text/event-stream} ", 2497),
        ("{ai.example.com|2497} {} ", 2497),
        ("{2497} ", None),
        ("{} {9} ", None),
    ],
)
def test_a_captured_length_is_the_requests_where_answers_are_captured_too(
    captured: str, size: int | None
) -> None:
    found = parsed(LogFormat.HAPROXY, haproxy(captured=captured))

    assert isinstance(found, Entry)
    assert found.request_bytes == size


def test_haproxys_line_has_the_arrival_of_the_whole_request_and_the_backend_as_model() -> None:
    found = parsed(LogFormat.HAPROXY, HAPROXY)

    assert isinstance(found, Entry)
    assert found.at == pytest.approx(
        NOON + 0.857, abs=1e-5
    )  # the stamp, and 20 ms to the whole request
    assert found == Entry(
        at=found.at,
        work=Work.GENERATES,
        status=200,
        model="chat",
        response_bytes=500,
        streamed=False,
        answer_s=0.517,
    )


@pytest.mark.parametrize(
    ("line", "streamed"),
    [
        (haproxy(captured="{text/event-stream; charset=utf-8} ", timers="0/0/1/9/10"), True),
        (haproxy(captured="{Bearer|} {|application/json} ", timers="0/0/1/9/9000"), False),
        (haproxy(timers="0/0/1/200/4800"), True),
        (haproxy(timers="0/0/1/4800/4801"), False),
        (haproxy(timers="0/30/-1/-1/31"), None),
    ],
)
def test_a_captured_type_tells_a_stream_or_else_the_time_after_the_head(
    line: str, streamed: bool | None
) -> None:
    found = parsed(LogFormat.HAPROXY, line)

    assert isinstance(found, Entry)
    assert found.streamed is streamed


@pytest.mark.parametrize(
    ("line", "at", "at_end"),
    [
        (NGINX, NOON + 30, True),
        (nginx("24/Nov/2026:13:00:30 +0100", more=" 20.500 20.400"), NOON + 9.5, False),
        (
            nginx("24/Nov/2026:12:00:30 +0000", more=' "10.0.0.123" rt=0.500 urt="-"'),
            NOON + 29.5,
            False,
        ),
        (nginx("24/Nov/2026:12:00:30 +0000", more=" - 0.100, 0.200"), NOON + 29.9, False),
    ],
)
def test_nginx_stamps_the_end_and_its_times_lead_back_to_the_start(
    line: str, at: float, at_end: bool
) -> None:
    found = parsed(LogFormat.NGINX, line)

    assert isinstance(found, Entry)
    assert found.at == pytest.approx(at, abs=1e-5)
    assert (found.at_end, found.whole_second) == (at_end, True)


@pytest.mark.parametrize(
    "stamp",
    [
        {"started": NOON},
        {"started": str(NOON)},
        {"started": int(NOON * 1000)},
        {"started": NOON * 1e6},
        {"started": "2026-11-24T12:00:00Z"},
        {"started": "2026-11-24 13:00:00.000+01"},
        {"started": "24/Nov/2026:13:00:00 +0100"},
        {"started": "24/Nov/2026:12:00:00.000"},
        {"started": "-", "created": int(NOON)},
        {"started": None, "msec": f"{NOON + 2.5:.3f}", "request_time": "2.500"},
        {"started": None, "@timestamp": "2026-11-24T12:00:02.500Z", "latency_ms": 2500},
        {"started": None, "standard_logging_object": {"startTime": NOON}},
        {"started": None, "response": {"body": {"created": int(NOON)}}},
    ],
    ids=str,
)
def test_a_gateways_stamp_is_read_in_each_of_its_forms(stamp: dict[str, object]) -> None:
    found = parsed(LogFormat.JSON, answered(**stamp))

    assert isinstance(found, Entry)
    assert found.at == pytest.approx(NOON, abs=1e-5)
    assert not found.at_end


@pytest.mark.parametrize(
    "record",
    [
        {"usage": None, "prompt_tokens": "100", "completion_tokens": "7"},
        {"usage": None, "input_tokens": 100.0, "output_tokens": 7},
        {"usage": None, "response": {"usage": {"prompt_tokens": 100, "completion_tokens": 7}}},
        {"path": None, "call_type": "acompletion"},
        {"path": None, "object": "chat.completion"},
        {"path": "/openai/deployments/x/chat/completions?api-key=secret", "request_method": "POST"},
        {"path": None, "request": CHAT, "status": "200"},
        {"status": "success", "cache_hit": "None"},
    ],
    ids=str,
)
def test_a_gateways_tokens_are_found_wherever_they_stand(record: dict[str, object]) -> None:
    found = parsed(LogFormat.JSON, answered(**record))

    assert isinstance(found, Entry)
    assert (found.prompt_tokens, found.output_tokens, found.work) == (100, 7, Work.GENERATES)


def test_litellms_spend_logs_are_read_from_csv_with_whatever_text_is_in_them(
    tmp_path: Path,
) -> None:
    path = log(
        tmp_path,
        "request_id,call_type,api_key,startTime,model_group,prompt_tokens,completion_tokens,messages,cache_hit",
        '1,acompletion,hash,2026-11-24 12:00:00.250,chat,100,7,"{""a"":\n""b, c""}",False',
        f'2,aembedding,hash,2026-11-24 12:00:01,embed,9,0,"{"x" * 200_000}",',
        "3,acompletion,hash,2026-11-24 12:00:02,chat,100,7,,True",
        "4,acompletion",
    )

    with read_logs([path]) as trace:
        found = list(trace)

    assert trace.report.formats == ((path, LogFormat.CSV),)
    assert [(r.prompt_tokens, r.output_tokens, r.model) for r in found] == [
        (100, 7, "chat"),
        (9, 0, "embed"),
    ]
    assert why(trace.report) == {Why.CACHED: 1, Why.UNREADABLE: 1}
    assert trace.report.skipped[1].first == f"{path}:6"


def test_vllms_log_tells_when_a_request_came_and_how_many_tokens_it_listed(tmp_path: Path) -> None:
    head = "(APIServer pid=1) INFO 11-24 12:00:00 [logger.py:40] Received request chatcmpl-1: "
    old = (
        head + "prompt: 'prompt_token_ids: [1]', params: SamplingParams(n=1), "
        "prompt_token_ids: [151644, 872, 9], prompt_embeds shape: None, lora_request: None."
    )
    new = head + "params: SamplingParams(max_tokens=100), lora_request: None."
    other = 'INFO:     10.80.23.18:51408 - "POST /v1/chat/completions HTTP/1.1" 200 OK'

    found, report = read(tmp_path, old, new, other, options=LogOptions(output_tokens=5))

    assert [(r.prompt_tokens, r.output_tokens) for r in found] == [(3, 5)]
    assert why(report) == {Why.NO_PROMPT: 1, Why.UNREADABLE: 1}
    assert (
        STAMPS.without_year(12, 31, (23, 0, 0))
        == datetime(2025, 12, 31, 23, tzinfo=UTC).timestamp()
    )


def test_a_model_is_named_only_where_there_are_several(tmp_path: Path) -> None:
    lines = [answered(model=name) for name in ("a", "a", "b\x1b[31m")]

    several, report = read(tmp_path, *lines)
    one, _ = read(tmp_path, *lines, options=LogOptions(model="a"))

    assert [r.model for r in several] == ["a", "a", "b?[31m"]
    assert report.models == (("a", 2), ("b?[31m", 1))
    assert [r.model for r in one] == [None, None]


# --- what counts


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (haproxy(request="GET /v1/models HTTP/1.1"), Why.OTHER),
        (haproxy(request="OPTIONS /v1/chat/completions HTTP/1.1"), Why.OTHER),
        (haproxy(request="POST /v1/load_lora_adapter HTTP/1.1"), Why.OTHER),
        (haproxy(request="<BADREQ>", timers="-1/-1/-1/-1/0", status=400), Why.OTHER),
        (haproxy(status=503), Why.FAILED),
        (haproxy(status=-1, timers="0/9/-1/-1/10"), Why.FAILED),
        (haproxy("31/Feb/2026:12:00:00.000"), Why.NO_TIME),
        ("haproxy[1]: Server chat/as-1 is UP, reason: Layer7 check passed", Why.UNREADABLE),
        (haproxy(size=10**13), Why.BEYOND),
    ],
)
def test_a_line_that_does_not_count_is_counted_with_its_place(
    tmp_path: Path, line: str, reason: Why
) -> None:
    found, report = read(tmp_path, haproxy(), line, haproxy())

    assert len(found) == 2
    assert [(s.why, s.lines, s.first) for s in report.skipped] == [
        (reason, 1, f"{tmp_path}/access.log:2")
    ]
    assert (report.lines, report.requests) == (3, 2)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"status": "failure"}, Why.FAILED),
        ({"error": {"code": 429}}, Why.FAILED),
        ({"cache_hit": True}, Why.CACHED),
        ({"method": "GET"}, Why.OTHER),
        ({"path": None, "call_type": "image_generation"}, Why.OTHER),
        ({"path": None, "usage": None}, Why.OTHER),
        ({"started": "yesterday"}, Why.NO_TIME),
        ({"started": 7}, Why.NO_TIME),
        ({"usage": {"prompt_tokens": 10**9, "completion_tokens": 1}}, Why.BEYOND),
        ({"usage": {"prompt_tokens": -3, "completion_tokens": 1}}, Why.NO_PROMPT),
        ({"usage": {"prompt_tokens": 3}}, Why.NO_OUTPUT),
    ],
    ids=str,
)
def test_a_record_that_does_not_count_says_why(
    tmp_path: Path, record: dict[str, object], reason: Why
) -> None:
    _, report = read(tmp_path, answered(), answered(**record), options=LogOptions())

    assert why(report) == {reason: 1}


@pytest.mark.parametrize(
    ("target", "work"),
    [
        ("/v1/completions", Work.GENERATES),
        ("https://api.example/v1/responses/", Work.GENERATES),
        ("/api/chat", Work.GENERATES),
        ("/llama/v1/messages?beta=true", Work.GENERATES),
        ("/v1/embeddings", Work.EMBEDS),
        ("/v2/rerank", Work.EMBEDS),
        ("/chat", None),
        ("/v1/messages/count_tokens", None),
        ("/?x=/completions", None),
    ],
)
def test_the_end_of_a_path_tells_what_an_engine_does(target: str, work: Work | None) -> None:
    assert work_of("POST", target) is work
    assert work_of("GET", target) is None


# --- estimates


@pytest.mark.parametrize(
    ("fields", "options", "tokens"),
    [
        # the body without the JSON around it, by 4 bytes a token
        ({"request_body_bytes": 2530, "response_body_bytes": 960}, {"streamed": False}, (600, 100)),
        ({"request_length": "2930", "bytes_sent": "1120"}, {"streamed": False}, (600, 100)),
        # an event a token
        (
            {"request_body_bytes": 2530, "response_body_bytes": 23_560},
            {"streamed": True},
            (600, 100),
        ),
        ({"content_type": "text/event-stream", "response_body_bytes": 23_560}, {}, (9, 100)),
        ({"content_type": "application/json", "response_body_bytes": 23_560}, {}, (9, 5750)),
        # 100 or 5750 tokens in 3 s: the first is nearer to 40 a second
        ({"duration_s": "3.0", "response_body_bytes": 23_560}, {}, (9, 100)),
        # 1 or 100 in 3 s
        ({"duration_s": "3.0", "response_body_bytes": 960}, {}, (9, 100)),
        ({"response_body_bytes": 960}, {}, (9, 2)),
        ({"response_body_bytes": 0, "request_body_bytes": 3}, {}, (1, 1)),
        # what is logged counts, what is not is as told
        ({"prompt_tokens": 5}, {"output_tokens": 4}, (5, 4)),
        ({"path": "/v1/embeddings", "response_body_bytes": 90_000}, {}, (9, 0)),
        (
            {"request_body_bytes": 2530, "response_body_bytes": 960},
            {"streamed": False, "bytes_per_token": 2.0},
            (1200, 200),
        ),
    ],
    ids=str,
)
def test_tokens_that_are_not_logged_are_estimated_from_bytes(
    tmp_path: Path, fields: dict[str, object], options: dict[str, object], tokens: tuple[int, int]
) -> None:
    known = LogOptions(**{"prompt_tokens": 9, **options})  # type: ignore[arg-type]  # a table of keywords

    (found,), report = read(tmp_path, answered(**{"usage": None, **fields}), options=known)

    assert (found.prompt_tokens, found.output_tokens) == tokens
    assert report.prompt_estimates == ("prompt_tokens" not in fields)
    assert report.output_estimates == ("embeddings" not in str(fields))


def test_stamps_of_whole_seconds_are_spread_over_them(tmp_path: Path) -> None:
    lines = [nginx("24/Nov/2026:12:00:30 +0000", more=" 10.000 9.900")] * 100

    found, report = read(tmp_path, *lines)

    gaps = [b.arrival_s - a.arrival_s for a, b in pairwise(found)]
    assert report.whole_seconds == 100
    assert 0.9 < found[-1].arrival_s < 1.0
    assert max(gaps) < 0.03


def test_stamps_without_a_zone_are_in_the_one_that_is_named(tmp_path: Path) -> None:
    paths = [
        log(tmp_path, haproxy("24/Nov/2026:13:00:00.000"), name="haproxy.log"),
        log(tmp_path, answered(), name="gateway.log"),
    ]

    with read_logs(paths, LogOptions(prompt_tokens=1, zone=zone_named("Europe/Prague"))) as trace:
        assert [r.arrival_s for r in trace] == [0.0, 0.0]
        assert trace.started_at.timestamp() == NOON


# --- files


def test_a_rotated_set_is_one_trace_in_any_order_gzipped_or_not(tmp_path: Path) -> None:
    lines = [haproxy(f"24/Nov/2026:12:{n // 60:02}:{n % 60:02}.500") for n in range(180)]
    random.Random(1).shuffle(lines)
    paths = [log(tmp_path, *lines[:60], name="haproxy.log"), log(tmp_path, name="haproxy.log.3")]
    for name, part in (("haproxy.log.1", lines[60:120]), ("haproxy.log.2.gz", lines[120:])):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(gzip.compress("\n".join(part).encode()))

    with read_logs([*paths, paths[0]], SIZED) as trace:
        once, again = list(trace), list(trace)

    assert [r.arrival_s for r in once] == [float(n) for n in range(180)]
    assert once == again
    assert trace.report.lines == 180


def test_a_log_whose_format_was_changed_is_read_on_unless_one_is_named(tmp_path: Path) -> None:
    path = log(tmp_path, haproxy(), haproxy(), answered())

    with read_logs([path], SIZED) as told:
        pass
    with read_logs([path], SIZED, format=LogFormat.HAPROXY) as named:
        pass

    assert (told.report.requests, told.report.skipped) == (3, ())
    assert (named.report.requests, why(named.report)) == (2, {Why.UNREADABLE: 1})


def test_many_requests_are_put_in_order_through_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_sort, "_RUN", 50)
    monkeypatch.setattr(log_sort, "_BLOCK", 7)
    monkeypatch.setattr(log_sort, "_IN_MEMORY", 100)
    times = [NOON + n / 10 for n in range(1000)]
    random.Random(2).shuffle(times)

    found, _ = read(tmp_path, *(answered(started=at) for at in times))

    assert [r.arrival_s for r in found] == pytest.approx([n / 10 for n in range(1000)], abs=1e-6)


def test_a_full_disk_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr("tempfile.SpooledTemporaryFile", lambda **_: full)

        with pytest.raises(ConfigError, match="No space left on device; set TMPDIR"):
            list(read_logs([log(tmp_path, haproxy())], SIZED))


def test_a_cut_last_line_and_one_of_any_length_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_lines, "_LINE_LIMIT", 1000)
    path = tmp_path / "access.log"
    path.write_text(f"{haproxy()}\n{'x' * 5000}\n{haproxy()}\n{haproxy()[:70]}")

    with read_logs([path], SIZED) as trace:
        assert len(list(trace)) == 2

    assert why(trace.report) == {Why.LONG: 1, Why.CUT: 1}
    assert [s.first for s in trace.report.skipped] == [f"{path}:2", f"{path}:4"]


def _cut_gzip(path: Path) -> None:
    text = "".join(f"{haproxy(size=n)}\n" for n in range(30_000, 36_000))
    path.write_bytes(gzip.compress(text.encode())[:-5000])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, r"access\.log: no such file"),
        (lambda p: p.mkdir(), r"access\.log: a directory: name the logs in it"),
        (lambda p: p.write_bytes(b""), r"no request for inference in 0 lines"),
        (lambda p: p.write_bytes(random.Random(3).randbytes(5000)), r"access\.log:1: in no format"),
        (lambda p: p.write_bytes(b"(\xb5/\xfd123"), r"packed with zstd: unpack it"),
        (lambda p: p.write_text(f"[{answered()}]"), r"access\.log:1: found a JSON array"),
        (_cut_gzip, r"access\.log:\d+: cannot be read as a log: Compressed file ended"),
        (lambda p: p.write_text(haproxy(request="GET / HTTP/1.1")), r"1 not a request for inf.*log:1"),
        (lambda p: p.write_text(haproxy()), r"1 size of the prompt unknown \(give --prompt-tokens\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_named_with_the_reason(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "access.log"
    make(path)

    with pytest.raises(ConfigError, match=says):
        read_logs([path])


# --- whatever a line holds

numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=20)
names = st.sampled_from(
    (
        *("started", "time", "path", "request", "status", "model", "usage", "response", "body"),
        *("prompt_tokens", "completion_tokens", "duration_s", "call_type", "error"),
        "standard_logging_object",
    )
)
records = st.recursive(
    st.dictionaries(names, scalars),
    lambda inner: st.dictionaries(names, scalars | inner),
    max_leaves=12,
)
pieces = st.sampled_from(
    [*HAPROXY.split(), *NGINX.split(), "{", "}", '"', "[", "]", " ", "\\", "INFO"]
)
garbage = st.text() | st.lists(pieces | st.text(max_size=3)).map(" ".join) | records.map(json.dumps)


@given(text=garbage)
@example('{"started":1e400}')
@example("[24/Nov/2026:12:00:99.9] x")
@example(HAPROXY.replace("24/Nov/2026:12", "99/Nov/2026:99"))
@example(NGINX.replace("+0000", "+9999"))
@example("INFO 99-99 99:99:99 [logger.py:40] Received request 1: x")
@settings(max_examples=80, deadline=None)
def test_no_line_is_too_strange(text: str) -> None:
    for format in LogFormat:
        for _, found in reader_of(format)(
            iter([Line(1, "time,prompt_tokens\n"), Line(2, text)]), STAMPS
        ):
            assert isinstance(found, Entry | Why)


@given(
    at_ms=st.integers(int(NOON) * 1000, int(NOON) * 1000 + 10**10),
    read_ms=st.integers(0, 5000),
    output=st.integers(1, 40_000),
    prompt=st.integers(1, 100_000),
)
@settings(max_examples=50, deadline=None)
def test_a_rendered_request_reads_back(at_ms: int, read_ms: int, output: int, prompt: int) -> None:
    at = at_ms / 1000
    stamp = datetime.fromtimestamp(at_ms // 1000, UTC)
    date = f"{stamp:%d/%b/%Y:%H:%M:%S}"
    body = 560 + 230 * output

    proxy = parsed(
        LogFormat.HAPROXY,
        haproxy(
            f"{date}.{at_ms % 1000:03}", timers=f"{read_ms}/0/0/9/{read_ms + 9999}", size=body + 160
        ),
    )
    server = parsed(
        LogFormat.NGINX, nginx(f"{date} +0000", size=body, more=f" {read_ms / 1000:.3f} -")
    )
    gateway = parsed(
        LogFormat.JSON,
        answered(started=at, usage={"prompt_tokens": prompt, "completion_tokens": output}),
    )

    assert isinstance(proxy, Entry)
    assert isinstance(server, Entry)
    assert isinstance(gateway, Entry)
    assert [proxy.at, server.at, gateway.at] == pytest.approx(
        [at + read_ms / 1000, at_ms // 1000 - read_ms / 1000, at], abs=1e-5
    )
    assert proxy.response_bytes == server.response_bytes == body
    assert (gateway.prompt_tokens, gateway.output_tokens) == (prompt, output)


# --- the command


def cli(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["trace", "import", *map(str, words)])
    return result.exit_code, result.output


def test_the_command_writes_a_trace_and_tells_what_it_left_out_and_nothing_of_what_was_said(
    tmp_path: Path,
) -> None:
    paths = [
        log(tmp_path, HAPROXY, haproxy(status=503), name="haproxy.log"),
        log(
            tmp_path,
            answered(model="b", started=None, time=int(NOON), messages="secret", api_key="secret"),
            name="gateway.log",
        ),
    ]
    out = tmp_path / "out.csv.gz"

    code, said = cli(*paths, "-o", out, "--prompt-tokens", 50)

    assert code == 0
    assert said.splitlines() == [
        f"{out}: 2 requests",
        "read       3 lines of 2 files (haproxy, json)",
        f"skipped    1 refused, failed or given up (status), the first at {paths[0]}:2",
        "models     chat 1, b 1",
        "estimated  prompt tokens of 1 request, output tokens of 1",
        "stamps     1 that tell the end of an answer only",
        "stamps     1 of whole seconds, spread over these",
    ]
    written = gzip.decompress(out.read_bytes()).decode()
    assert not any(word in said + written for word in ("secret", "127.0.0.1", "10.0.0.7"))
    assert {r.model for r in read_trace(out)} == {"chat", "b"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("azure", "a.csv", "b.csv"), "trace import --format azure a.csv -o b.csv`"),
        (("access.log",), "-o: missing"),
        (("access.log", "-o", "out.csv", "--zone", "Mars/Base"), "zone: found 'Mars/Base'"),
        (("azure.csv", "access.log", "-o", "out.csv"), "one file at a time of azure"),
        (("access.log", "-o", "out.csv", "--format", "nginx"), "2 not a line of this format"),
    ],
)
def test_a_command_that_cannot_be_done_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    log(tmp_path, haproxy(), haproxy())
    log(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens", name="azure.csv")

    code, said = cli(*words)

    assert code == 2
    assert says in " ".join(said.split())
    assert not (tmp_path / "out.csv").exists()
