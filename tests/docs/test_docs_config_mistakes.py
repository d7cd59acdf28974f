"""Mistakes in the shipped examples: each message names file, line and key, what was found and what to do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel

from autoscaler.config import Config
from autoscaler.config_file import read_config, read_policies, read_policy
from autoscaler.errors import ConfigError
from autoscaler.policy import Policy
from autoscaler.toml_file import FORMS

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mistake:
    """An edit of an example, and what must be said of it.

    Attributes:
        marker: a text of the line that must be named; the new text's first line when left out.
    """

    file: str
    old: str
    new: str
    key: str
    says: tuple[str, ...]
    marker: str = ""

    def __str__(self) -> str:
        return f"{Path(self.file).stem}: {self.new or 'without ' + self.old}"


def config(old: str, new: str, key: str, *says: str, marker: str = "") -> Mistake:
    return Mistake("config.example.toml", old, new, key, says, marker)


def policy(old: str, new: str, key: str, *says: str, marker: str = "") -> Mistake:
    return Mistake("policies/chat-8b.toml", old, new, key, says, marker)


def under(table: str, line: str) -> tuple[str, str]:
    """An edit that puts a line right below a table's header."""
    return f"[{table}]\n", f"[{table}]\n{line}\n"


SLO = 'slo = "95% of first tokens within 2s"'
NODES = "nodes = { min = 0, max = 4 }"
SOURCES = 'sources = ["203.0.113.5/32"]'
HOURLY = 'usd_per_hour = "5"'

MISTAKES = (
    # a name
    config(HOURLY, 'usd_per_hours = "5"', "limits.usd_per_hours", "did you mean 'usd_per_hour'?"),
    config("[timings]", "[timming]", "timming", "did you mean 'timings'?"),
    config(*under("timings", 'reconcil = "20s"'), "timings.reconcil", "did you mean 'reconcile'?"),
    config(*under("log", 'level = "warn"'), "log.level", "found 'warn'", "did you mean 'warning'?"),
    config(
        'policies = "policies"', 'policies = "p"\nbalancer = "hapoxy"', "balancer", "'haproxy'?"
    ),
    config(*under("ssh", 'key_type = "rsa"'), "ssh.key_type", "allowed: 'ed25519'", "'rsa-4096'?"),
    policy('engine = "vllm"', 'engine = "vlm"', "engine", "allowed: 'vllm'", "did you mean 'vllm'"),
    policy('mode = "shadow"', 'mode = "shadows"', "mode", "did you mean 'shadow'?"),
    policy("prompt_tokens =", "prompt_token =", "typical.prompt_token", "'prompt_tokens'?"),
    policy("max_model_len =", "max_model_length =", "server.max_model_length", "'max_model_len'?"),
    policy("types = [", "type = [", "hardware.type", "did you mean 'types'?"),
    policy(NODES, "nodes = { min = 0, maxx = 4 }", "nodes.maxx", "did you mean 'max'?"),
    policy(
        "[hardware]",
        '[[signals.sources]]\nkind = "page"\n[[signals.sources]]\nkind = "prometeus"\n[hardware]',
        "signals.sources[1].kind",
        "did you mean 'prometheus'?",
        marker='kind = "prometeus"',
    ),
    # an amount, a size, a duration, a number
    config(HOURLY, "usd_per_hour = 5.5", "limits.usd_per_hour", "found 5.5", 'such as "5.5"'),
    config(HOURLY, 'usd_per_hour = "five"', "limits.usd_per_hour", "found 'five'", '"12.50"'),
    config("nodes = 4", "nodes = -1", "limits.nodes", "found -1", "greater than or equal to 0"),
    config(*under("timings", "sweep = 60"), "timings.sweep", "found 60", '"60s"'),
    config(*under("ssh", "port = 70000"), "ssh.port", "found 70000", "65535"),
    policy('limit = "$4/h"', "limit = 4.5", "limit", "found 4.5", '"4.5"'),
    policy("prompt_tokens = 1024", "prompt_tokens = 0", "typical.prompt_tokens", "found 0"),
    policy(*under("hardware", 'min_disk = "24 gigs"'), "hardware.min_disk", "'24 gigs'", '"24GiB"'),
    policy(*under("hardware", "tensor_parallel = 17"), "hardware.tensor_parallel", "17", "16"),
    policy("[hardware]", '[hold]\nbytes = "256"\n[hardware]', "hold.bytes", marker="bytes ="),
    policy(SLO, 'slo = "fast"', "slo", "found 'fast'", '"95% of first tokens within 2s"'),
    policy(SLO, 'slo = "95% of first tokens within 2"', "slo.ttft", "found '2'", '"90s"'),
    policy(SLO, 'slo = "20% of first tokens within 2s"', "slo.goal", "0.2", "greater than 0.5"),
    # a value that would hurt
    config(SOURCES, 'sources = ["0.0.0.0/0"]', "firewall.sources", "opens", "name your hosts"),
    config(SOURCES, 'sources = ["203.0.113.5/33"]', "firewall.sources", "203.0.113.5/33"),
    config('listen = "127', 'listen = "0.0.0.0:9110" #', "serve.listen", "0.0.0.0 is not loopback"),
    config('owner = "0example"', 'owner = "Example!"', "cloud.owner", "found 'Example!'"),
    config(*under("timings", 'reconcile = "1s"'), "timings.reconcile", "the least is 5s"),
    config(*under("timings", 'deadman_after = "5h"'), "timings.deadman_after", "the least is 6h"),
    config(
        *under("timings", 'deadman_after = "6h"\nrecheck = "3h"'),
        "timings",
        "deadman_after: found 6h, the least is 9h: nodes are visited once in recheck",
        marker="[timings]",
    ),
    policy('model = "Qwen/Qwen3-8B"', 'model = "$(reboot)"', "model", "found '$(reboot)'"),
    policy("max_model_len = 16384", "port = 80", "server.port", "found 80", "1024"),
    policy(NODES, "nodes = { min = 5, max = 4 }", "nodes", "max 4 is below min 5"),
    # something that is missing, or too much
    config(HOURLY, "", "limits.usd_per_hour", "willing to spend", marker="[limits]"),
    config('usd_per_month = "600"', "", "limits.usd_per_month", "willing to", marker="[limits]"),
    config(
        'key_file = "/run', 'email = "a@b.c"\nkey_file = "/run', "cloud", "not both", marker="[cl"
    ),
    config('policies = "policies"', 'balancer = "haproxy"', "balancer", "at least one [[haproxy]]"),
    policy(
        "# [scaling]",
        '[hardware.capacity."l40s"]\nconcurrency = 3\n',
        "hardware.capacity.l40s.requests_per_s",
        "required",
        marker='[hardware.capacity."l40s"]',
    ),
    policy("max_model_len = 16384", 'script = "x.sh"', "server.script", "server.script", "custom"),
    config("schema = 1", "schema = 2", "schema", "found 2", "reads schema = 1", "newer autoscaler"),
)


def mistaken(mistake: Mistake, folder: Path) -> tuple[Path, int]:
    """The example with the mistake in it, and the line that has to be named."""
    path = folder / Path(mistake.file).name
    text = (ROOT / mistake.file).read_text()
    assert mistake.old in text
    changed = text.replace(mistake.old, mistake.new, 1)
    path.write_text(changed)
    if mistake.marker:
        at = changed.index("\n" + mistake.marker) + 1
    else:
        at = text.index(mistake.old) + len(mistake.new.rstrip("\n")) - 1
    return path, changed[:at].count("\n") + 1


def refused(path: Path) -> str:
    read = read_policy if path.name.startswith("chat") else read_config
    with pytest.raises(ConfigError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_named_with_its_place_and_its_cure(mistake: Mistake, tmp_path: Path) -> None:
    path, line = mistaken(mistake, tmp_path)

    message = refused(path)

    assert message.splitlines() == [message], "one mistake, one line"
    assert message.startswith(f"{path}:{line}: {mistake.key}"), message
    for text in mistake.says:
        assert text in message


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    text = (ROOT / "config.example.toml").read_text()
    path = tmp_path / "config.toml"
    for old, new in (
        (HOURLY, 'usd_per_hour = "five"'),
        ("[ssh]", "[ssh]\nport = 0"),
        ("[log]", '[log]\nformat = "xml"'),
    ):
        text = text.replace(old, new, 1)
    path.write_text(text)

    lines = refused(path).splitlines()

    assert [line.split(": ")[1] for line in lines] == [
        "limits.usd_per_hour",
        "ssh.port",
        "log.format",
    ]


@pytest.mark.parametrize("broken", ["[limits", 'owner = "0example', "nodes = 4 5"])
def test_what_is_not_toml_is_named_with_its_line(broken: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"schema = 1\n{broken}\n")

    message = refused(path)

    assert message.startswith(f"{path}: not TOML")
    assert "line 2" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), (b"\xff\xfe", "not UTF-8"), (b"#" * 1024 * 1025, "is a mistake")],
    ids=["missing", "not text", "huge"],
)
def test_a_file_that_cannot_be_a_config_is_refused(
    content: bytes | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)

    message = refused(path)

    assert message.startswith(str(path))
    assert says in message


def test_a_secret_written_into_the_file_is_not_shown_back(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    text = (ROOT / "config.example.toml").read_text()
    path.write_text(text.replace("[cloud]", '[cloud]\npassword = "hunter2"\naccess_key = "k-1"', 1))

    message = refused(path)

    assert "cloud.password: no such key" in message
    assert "hunter2" not in message
    assert "k-1" not in message


def test_validate_says_it_on_stderr_and_ends_with_2(tmp_path: Path) -> None:
    path = tmp_path / "chat.toml"
    text = (ROOT / "policies" / "chat-8b.toml").read_text()
    path.write_text(text.replace('engine = "vllm"', 'engine = "vlm"'))

    ended = subprocess.run(
        (sys.executable, "-m", "autoscaler", "validate", str(path)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    assert f"{path}:10: engine: found 'vlm'" in ended.stderr
    assert ended.stdout == ""


def test_two_policies_with_one_name_are_refused_with_both_files(tmp_path: Path) -> None:
    text = (ROOT / "policies" / "chat-8b.toml").read_text()
    (tmp_path / "a.toml").write_text(text)
    (tmp_path / "b.toml").write_text(text.replace("Qwen/Qwen3-8B", "qwen-qwen3-8b"))

    with pytest.raises(ConfigError) as caught:
        read_policies(tmp_path)

    assert str(tmp_path / "b.toml") in str(caught.value)
    assert f"clashes with {tmp_path / 'a.toml'}" in str(caught.value)


def patterns(schema: object) -> set[str]:
    """Every pattern in a JSON schema, those of a table's keys too."""
    if isinstance(schema, list):
        return {found for part in schema for found in patterns(part)}
    if not isinstance(schema, dict):
        return set()
    here = {schema["pattern"]} if isinstance(schema.get("pattern"), str) else set()
    here |= set(schema.get("patternProperties", ()))
    return here | {found for part in schema.values() for found in patterns(part)}


@pytest.mark.parametrize("values", [Config, Policy])
def test_what_a_pattern_allows_is_said_in_words(values: type[BaseModel]) -> None:
    used = patterns(values.model_json_schema())

    assert used
    assert used <= FORMS.keys()
