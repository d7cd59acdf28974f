"""How far the startup script of a node is, read from the files that it leaves (docs/startup-scripts.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoscaler.errors import NodeUnreachable, VerificationFailed
from autoscaler.nodes.gpus import Gpu, parse_gpu
from autoscaler.nodes.remote_text import last_bytes, redacted
from autoscaler.nodes.shell import NodeShell
from autoscaler.policy import Deadlines

FINISHED = "finished"
OTHER_STAGES_S = 300.0
STAGE_MARGIN_S = 30.0  # the script ends an overdue stage itself, with a better reason
LOG_TAIL_BYTES = 4096

# The script's end is looked for before its status is read: a status of "running" is then the last word of a dead one.
_READ_BOOT = """
r="${VM_ROOT:-}/run/autoscaler"
echo "now $(date +%s%N)"
if p="$(cat "$r/pid" 2>/dev/null)"; then [ -d "/proc/$p" ] && echo 'script alive' || echo 'script dead'; fi
[ ! -r "$r/status" ] || echo "status $(head -c 1000 "$r/status")"
[ ! -r "$r/stages" ] || tail -n 64 "$r/stages" | sed 's/^/stage /'
[ ! -r "$r/gpus" ] || head -n 32 "$r/gpus" | sed 's/^/gpu /'
[ ! -r "$r/image" ] || echo "image $(head -c 2000 "$r/image")"
"""
_STAGE = re.compile(r"stage (\d{1,20}) ([a-z_]{1,32})")
_DIGEST = re.compile(r"@sha256:([0-9a-f]{64})\b")
_FAILED = re.compile(r"failed ([a-z_]{1,32}) (\d{1,3}) (.*)")


@dataclass(frozen=True, slots=True)
class StageTime:
    """One stage of the startup script, with how long it took; of the one under way, until now."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BootReport:
    """What the script has left so far.

    Attributes:
        stage: the stage under way, `finished`, or None before the script began.
        failure: what it says it failed with.
        is_dead: it began, did not end, and no such process runs.
        gpus: as it found them, empty before it looked.
        image_digest: of the container image as the registry gave it out; None before the pull, or unknown.
    """

    stage: str | None
    stages: tuple[StageTime, ...] = ()
    failure: str | None = None
    is_dead: bool = False
    gpus: tuple[Gpu, ...] = ()
    image_digest: str | None = None


async def read_boot(shell: NodeShell) -> BootReport:
    """Read where the startup script is.

    Raises:
        NodeUnreachable: no session, or no answer.
    """
    output = await shell.run(_READ_BOOT, timeout_s=15, max_bytes=32 * 1024)
    if output.timed_out:
        raise NodeUnreachable("the node does not read its own status within 15 s")
    return parse_boot(output.stdout)


def parse_boot(text: str) -> BootReport:
    """Understand the answer; lines of another form are passed over."""
    now = 0
    begun: list[tuple[int, str]] = []
    status, is_alive = "", True
    gpus: list[Gpu] = []
    digest: str | None = None
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "now" and rest.isdecimal():
            now = int(rest)
        elif match := _STAGE.fullmatch(line):
            begun.append((int(match[1]), match[2]))
        elif kind == "status":
            status = rest
        elif kind == "script":
            is_alive = rest == "alive"
        elif kind == "gpu" and (gpu := parse_gpu(rest)):
            gpus.append(gpu)
        elif kind == "image" and (named := _DIGEST.search(rest)):
            digest = named[1]
    failed = _FAILED.fullmatch(status)
    running = status.startswith("running ")
    stage = FINISHED if status == FINISHED else begun[-1][1] if begun else None
    return BootReport(
        stage=stage,
        stages=_lengths(begun, now),
        failure=f"{failed[1]}: {failed[3]}" if failed else None,
        is_dead=running and not is_alive,
        gpus=tuple(gpus),
        image_digest=digest,
    )


def _lengths(begun: list[tuple[int, str]], now: int) -> tuple[StageTime, ...]:
    ends = (*(at for at, _ in begun[1:]), now)
    return tuple(
        StageTime(name, max(0.0, (end - at) / 1e9))
        for (at, name), end in zip(begun, ends, strict=False)  # nothing begun, nothing ended
        if name != FINISHED
    )


def limit_of(stage: str, deadlines: Deadlines) -> float:
    """Seconds that a stage of the script may take."""
    named: Mapping[str, float] = {
        "token": deadlines.token.total_seconds(),
        "tls": deadlines.token.total_seconds(),
        "pull": deadlines.pull.total_seconds(),
        "health": deadlines.health.total_seconds(),
    }
    return named.get(stage, OTHER_STAGES_S)


async def check_boot(shell: NodeShell, report: BootReport, deadlines: Deadlines) -> None:
    """See that the script has not failed, died, or stopped moving.

    Raises:
        VerificationFailed: with the stage, the reason and the end of its log.
        NodeUnreachable: no answer.
    """
    problem = report.failure
    if problem is None and report.is_dead:
        problem = f"{report.stage}: the startup script was killed"
    if problem is None and report.stages and report.stage != FINISHED:
        last = report.stages[-1]
        limit = limit_of(last.name, deadlines)
        if last.seconds > limit + STAGE_MARGIN_S:
            problem = f"{last.name}: no end after {last.seconds:.0f} s, {limit:.0f} s are allowed"
    if problem is not None:
        tail = await startup_log(shell)
        raise VerificationFailed(
            f"startup script failed in stage {redacted(problem)}\nlast lines of its log:\n{tail}"
        )


async def startup_log(shell: NodeShell, max_bytes: int = LOG_TAIL_BYTES) -> str:
    """The end of the startup script's log."""
    command = f'tail -c {max_bytes} "${{VM_ROOT:-}}/var/log/autoscaler/startup.log"'
    output = await shell.run(command, timeout_s=15, max_bytes=2 * max_bytes)
    return last_bytes(redacted(output.stdout), max_bytes).strip()
