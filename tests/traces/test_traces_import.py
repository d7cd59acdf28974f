"""Public formats become our CSV, with what was recorded left as it was and what is drawn drawn from the seed."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoscaler.cli.app import app
from autoscaler.errors import ConfigError
from autoscaler.traces.azure import azure_requests
from autoscaler.traces.measure import measure
from autoscaler.traces.mooncake import mooncake_requests
from autoscaler.traces.reader import read_trace, stream_trace, write_trace
from autoscaler.traces.request import TracedRequest
from autoscaler.traces.servegen import Selection, servegen_requests

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2225670,879,55
"""


def azure(tmp_path: Path, text: str = AZURE) -> Path:
    path = tmp_path / "azure.csv"
    path.write_text(text)
    return path


def mooncake(tmp_path: Path, *lines: dict[str, object] | str) -> Path:
    path = tmp_path / "conversation_trace.jsonl"
    path.write_text("".join((s if isinstance(s, str) else json.dumps(s)) + "\n" for s in lines))
    return path


def asked(timestamp: int, prompt: int = 6758, output: int = 500) -> dict[str, object]:
    return {
        "timestamp": timestamp,
        "input_length": prompt,
        "output_length": output,
        "hash_ids": [0, 1, 2],
    }


def servegen(tmp_path: Path, **traces: str) -> Path:
    folder = tmp_path / "m-large"
    folder.mkdir()
    histogram = {"input_tokens": "{100: 0.25, 200: 0.75}", "output_tokens": "{7: 1.0}"}
    later = {"input_tokens": "{900: 1.0}", "output_tokens": "{9: 1e0}"}
    for name, text in traces.items():
        (folder / f"chunk-{name[1:]}-trace.csv").write_text(text)
        document = {
            "0": histogram,
            "600": {"input_tokens": "{}", "output_tokens": "{}"},
            "1200": later,
        }
        (folder / f"chunk-{name[1:]}-dataset.json").write_text(json.dumps(document))
    return folder


STEADY = "0,1.0,1.0,Gamma,1.0,1.0\n600,0,0,,0,0\n1200,0.5,2.0,Weibull,0.6,0.5\n"


def cli(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["trace", *map(str, words)])
    return result.exit_code, result.output + result.stderr


# --- azure


def test_azure_stamps_of_seven_digits_become_seconds_since_the_first(tmp_path: Path) -> None:
    found = list(azure_requests(azure(tmp_path)))

    assert [(r.prompt_tokens, r.output_tokens) for r in found] == [(374, 44), (396, 109), (879, 55)]
    assert [r.arrival_s for r in found] == pytest.approx([0.0, 4.314579, 4.541977], abs=1e-5)


def test_azure_stamps_with_a_zone_are_read_too(tmp_path: Path) -> None:
    text = (
        AZURE.splitlines()[0]
        + "\n2024-05-10 00:00:00.009930+00:00,10,1\n2024-05-10 02:00:01+02:00,9,1\n"
    )

    found = list(azure_requests(azure(tmp_path, text)))

    assert found[1].arrival_s == pytest.approx(0.99007)


def test_azure_lines_a_little_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    first, second, *_ = AZURE.splitlines()[1:]

    found = list(azure_requests(azure(tmp_path, "\n".join([AZURE.splitlines()[0], second, first]))))

    assert [r.prompt_tokens for r in found] == [374, 396]
    assert found[0].arrival_s == 0.0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("yesterday,1,1", "TIMESTAMP: found 'yesterday'"),
        ("2023-11-16 18:15:52,many,1", "ContextTokens: found 'many'"),
        ("2023-11-16 18:15:52,1,-4", "GeneratedTokens: found -4"),
        ("2023-11-16 18:15:52,1", "2 fields, the header has 3"),
        ("2023-11-16 17:15:52,1,1", "sort the file by its time first"),
    ],
)
def test_a_bad_azure_line_is_named_with_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    path = azure(tmp_path, AZURE + line + "\n")

    with pytest.raises(ConfigError) as failure:
        list(azure_requests(path))

    assert str(failure.value).startswith(f"{path}:5: ")
    assert says in str(failure.value)


def test_many_lines_are_imported_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    start = datetime(2023, 11, 16, 18, 0, 0)  # noqa: DTZ001  # as in the file
    with path.open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for n in range(20_000):
            file.write(f"{start + timedelta(seconds=n)},{n % 5000},{n % 300}\n")
    tracemalloc.start()

    count = sum(1 for _ in azure_requests(path))

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 1_000_000


# --- mooncake


def test_mooncake_stamps_are_spread_over_their_step_by_the_seed(tmp_path: Path) -> None:
    path = mooncake(tmp_path, *(asked(3000 * (n // 10), prompt=n) for n in range(100)))

    found = list(mooncake_requests(path, spread_s=3.0, seed=1))

    assert found == list(mooncake_requests(path, spread_s=3.0, seed=1))
    assert found != list(mooncake_requests(path, spread_s=3.0, seed=2))
    arrivals = [r.arrival_s for r in found]
    assert arrivals == sorted(arrivals)
    assert len(set(arrivals)) == 100
    assert sorted(r.prompt_tokens for r in found) == list(range(100))
    assert all(abs(r.arrival_s - 3 * (r.prompt_tokens // 10)) <= 3.0 for r in found)


def test_mooncake_without_spread_keeps_its_stamps(tmp_path: Path) -> None:
    path = mooncake(tmp_path, asked(0), asked(3000), asked(3000))

    assert [r.arrival_s for r in mooncake_requests(path, spread_s=0.0, seed=1)] == [0.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "not JSON"),
        ("[1]", "found a list"),
        ('{"timestamp": "now", "input_length": 1, "output_length": 1}', "timestamp: found 'now'"),
        ('{"timestamp": 3, "output_length": 1}', "input_length: found None"),
        ('{"timestamp": 3, "input_length": 1, "output_length": 1e9}', "output_length"),
        ('{"timestamp": 3, "input_length": -1, "output_length": 1}', "input_length: found -1"),
    ],
)
def test_a_bad_mooncake_line_is_named_with_file_and_line(
    tmp_path: Path, line: str, says: str
) -> None:
    path = mooncake(tmp_path, asked(0), line)

    with pytest.raises(ConfigError, match=r"conversation_trace\.jsonl:2: ") as failure:
        list(mooncake_requests(path, spread_s=0.0, seed=1))

    assert says in str(failure.value)


# --- servegen


def test_servegen_draws_the_recorded_number_of_requests_in_each_step(tmp_path: Path) -> None:
    folder = servegen(tmp_path, c1=STEADY, c2=STEADY)

    found = list(servegen_requests(folder, Selection(), seed=3))

    # two clients: 600 in the first step, silence, 300 in the third; a phase moves each by less than a step
    assert len(found) == 2 * (600 + 300)
    arrivals = [r.arrival_s for r in found]
    assert arrivals == sorted(arrivals)
    early = [r for r in found if r.prompt_tokens in (100, 200)]
    assert len(early) == 1200
    assert 0.2 < sum(1 for r in early if r.prompt_tokens == 100) / 1200 < 0.3
    assert {(r.prompt_tokens, r.output_tokens) for r in found} == {(100, 7), (200, 7), (900, 9)}


def test_servegen_gives_the_same_trace_for_the_same_seed_only(tmp_path: Path) -> None:
    folder = servegen(tmp_path, c1=STEADY, c2=STEADY)
    first = list(servegen_requests(folder, Selection(), seed=3))

    assert list(servegen_requests(folder, Selection(), seed=3)) == first
    assert list(servegen_requests(folder, Selection(), seed=4)) != first


def test_servegen_is_thinned_to_the_mean_that_was_asked_for(tmp_path: Path) -> None:
    folder = servegen(tmp_path, c1=STEADY, c2=STEADY)

    found = list(servegen_requests(folder, Selection(mean_per_s=0.25), seed=3))

    assert 0.2 * 1800 < len(found) < 0.3 * 1800


def test_servegen_takes_the_hours_and_clients_that_were_asked_for(tmp_path: Path) -> None:
    folder = servegen(tmp_path, c1=STEADY, c2=STEADY, c3=STEADY)

    found = list(servegen_requests(folder, Selection(1200.0, 600.0, clients=1), seed=3))

    assert len(found) == 300
    assert {r.prompt_tokens for r in found} == {900}


def test_one_servegen_client_can_be_imported_alone(tmp_path: Path) -> None:
    folder = servegen(tmp_path, c1=STEADY, c2=STEADY)

    assert len(list(servegen_requests(folder / "chunk-2-trace.csv", Selection(), seed=1))) == 900


def test_extreme_shapes_of_servegen_stay_inside_their_step(tmp_path: Path) -> None:
    rows = "0,2.0,9,Weibull,0.0001,1\n600,2.0,9,Gamma,0.0001,1\n"

    found = list(servegen_requests(servegen(tmp_path, c1=rows), Selection(), seed=1))

    assert len(found) == 2400
    assert 0.0 <= found[0].arrival_s <= found[-1].arrival_s <= 1800.0


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("0,1,1,Gamma,1\n", "chunk-1-trace.csv:1: 5 fields"),
        ("0,1,1,Poisson,1,1\n", "chunk-1-trace.csv:1: pattern: found 'Poisson'"),
        ("0,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n", "chunk-1-trace.csv:2: not later"),
        ("0,fast,1,Gamma,1,1\n", "chunk-1-trace.csv:1: not numbers"),
        ("0,1,1,Gamma,-1,1\n", "chunk-1-trace.csv:1: start 0.0"),
        ("0,0,0,,0,0\n", "no client sends anything"),
    ],
)
def test_a_bad_servegen_chunk_is_named_with_file_and_line(
    tmp_path: Path, rows: str, says: str
) -> None:
    folder = servegen(tmp_path, c1=rows)

    with pytest.raises(ConfigError) as failure:
        list(servegen_requests(folder, Selection(), seed=1))

    assert says in str(failure.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "no histogram"),
        ('{"0": {"image_count": "{1: 1.0}"}}', "multimodal data are not supported"),
        ('{"0": {"input_tokens": "{a: 1}", "output_tokens": "{1: 1}"}}', "found 'a: 1'"),
        ('{"0": {"input_tokens": "{1: -1}", "output_tokens": "{1: 1}"}}', "must be positive"),
    ],
)
def test_bad_servegen_histograms_are_named(tmp_path: Path, text: str, says: str) -> None:
    folder = servegen(tmp_path, c1=STEADY)
    (folder / "chunk-1-dataset.json").write_text(text)

    with pytest.raises(ConfigError, match=r"chunk-1-dataset\.json") as failure:
        list(servegen_requests(folder, Selection(), seed=1))

    assert says in str(failure.value)


# --- the commands


def test_an_imported_trace_can_be_read_and_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.csv.gz"

    code, said = cli("import", "--format", "azure", azure(tmp_path), "-o", out)
    told_code, told = cli("info", out)

    assert (code, said.strip()) == (0, f"{out}: 3 requests")
    assert [r.prompt_tokens for r in read_trace(out)] == [374, 396, 879]
    assert told_code == 0
    assert "requests       3" in told


def test_a_wrong_format_is_answered_with_the_right_one(tmp_path: Path) -> None:
    path = mooncake(tmp_path, asked(0))

    code, said = cli("import", "--format", "azure", path, "-o", tmp_path / "out.csv")

    assert code == 2
    assert f"autoscaler trace import {path} -o OUT" in said


def test_a_servegen_directory_named_azure_is_told_apart(tmp_path: Path) -> None:
    code, said = cli(
        "import", "--format", "azure", servegen(tmp_path, c1=STEADY), "-o", tmp_path / "out.csv"
    )

    assert code == 2
    assert "looks like servegen" in said


def test_a_trace_of_ours_is_not_imported_again(tmp_path: Path) -> None:
    path = tmp_path / "ours.csv"
    write_trace(path, [TracedRequest(0.0, 1, 1)])

    code, said = cli("import", "--format", "mooncake", path, "-o", tmp_path / "out.csv")

    assert code == 2
    assert "already" in said


def test_info_on_a_public_format_says_how_to_import_it(tmp_path: Path) -> None:
    code, said = cli("info", azure(tmp_path))

    assert code == 2
    assert "looks like azure: `autoscaler trace import" in said


def test_a_failed_import_leaves_no_file(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"

    code, _ = cli("import", "--format", "azure", azure(tmp_path, AZURE + "x,1,1\n"), "-o", out)

    assert code == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "azure.csv"]


def test_nothing_is_overwritten_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("precious")

    code, said = cli("import", "--format", "azure", azure(tmp_path), "-o", out)
    forced, _ = cli("import", "--format", "azure", azure(tmp_path), "-o", out, "--force")

    assert code == 2
    assert "--force" in said
    assert forced == 0


def test_a_missing_file_and_an_unwritable_place_are_named(tmp_path: Path) -> None:
    nothing = cli("import", "--format", "azure", tmp_path / "no.csv", "-o", tmp_path / "out.csv")
    nowhere = cli("import", "--format", "azure", azure(tmp_path), "-o", tmp_path / "no" / "out.csv")

    assert nothing[0] == nowhere[0] == 2
    assert "no such file" in nothing[1]
    assert "cannot be written" in nowhere[1]


def test_the_help_says_what_is_recorded_and_what_is_drawn() -> None:
    code, said = cli("import", "--help")

    assert code == 0
    assert said.count("Recorded") == 4
    assert said.count("Drawn") == 3


def test_a_generated_trace_repeats_byte_for_byte(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv.gz", tmp_path / "two.csv.gz"

    assert cli("generate", one, "--seed", "7", "--rate", "0.05")[0] == 0
    assert cli("generate", two, "--seed", "7", "--rate", "0.05")[0] == 0

    assert one.read_bytes() == two.read_bytes()


# --- our own format


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-1,1,1", "arrival_s: found -1.0"),
        ("nan,1,1", "arrival_s: found nan"),
        ("soon,1,1", "arrival_s: found 'soon'"),
        ("2,x,1", "prompt_tokens: found 'x'"),
        ("2,1,99999999999", "output_tokens: found 99999999999"),
        ("0.5,1,1", "before its predecessor"),
        ("2", "prompt_tokens: found ''"),
    ],
)
def test_a_bad_line_of_a_trace_is_named_with_file_and_line(
    tmp_path: Path, line: str, says: str
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"arrival_s,prompt_tokens,output_tokens\n1.0,1,1\n{line}\n")

    with pytest.raises(ConfigError, match=r"trace\.csv:3: ") as failure:
        read_trace(path)

    assert says in str(failure.value)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8bbroken", b"\xff\xfe\x00", b"a,b\n1,2\n"])
def test_a_file_that_is_no_trace_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"trace\.csv\.gz"):
        read_trace(path)


def test_a_cut_off_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    write_trace(path, (TracedRequest(n, n, n) for n in range(5000)))
    path.write_bytes(path.read_bytes()[:-2000])

    with pytest.raises(ConfigError, match="cannot be read as a trace"):
        read_trace(path)


def test_a_gzipped_trace_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(gzip.compress(b"arrival_s,prompt_tokens,output_tokens,model\n0,1,2,m\n"))

    assert read_trace(path) == [TracedRequest(0.0, 1, 2, "m")]


def test_the_figures_of_a_trace_are_those_of_its_minutes(tmp_path: Path) -> None:
    def three_minutes() -> Iterator[TracedRequest]:
        for n in range(60):
            yield TracedRequest(float(n), 100, 10)
        for n in range(120):
            yield TracedRequest(120.0 + n / 2, 200, 10)

    path = tmp_path / "trace.csv"
    write_trace(path, three_minutes())

    measured = measure(stream_trace(path))

    assert measured.requests == 180
    assert measured.peak_per_s == 2.0
    assert measured.mean_per_s == pytest.approx(180 / 179.5)
    assert (measured.prompt_p95, measured.output_mean) == (200, 10.0)


def test_an_empty_trace_has_no_figures() -> None:
    with pytest.raises(ValueError, match="no requests"):
        measure([])
