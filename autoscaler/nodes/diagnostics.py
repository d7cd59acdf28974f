"""What can still be saved of a node before it is given up: the ends of its logs and what its GPUs say.

It goes into the store and is shown by `autoscaler events`, so it is redacted, printable and bounded.
"""

from __future__ import annotations

from collections.abc import Iterable

from autoscaler.errors import NodeUnreachable
from autoscaler.nodes.remote_text import last_bytes, redacted
from autoscaler.nodes.shell import NodeShell

LIMIT_BYTES = 64 * 1000
_SECTION_S = 10.0
_AS_ROOT = 'r=; [ "$(id -u)" -eq 0 ] || r="sudo -n"; '

# Most telling first: what does not fit is cut from the end.
_SECTIONS: tuple[tuple[str, int, str], ...] = (
    ("status", 2_000, 'cd "${VM_ROOT:-}/run/autoscaler" && cat status stages'),
    (
        "startup log",
        16_000,
        'tail -c 16000 "${VM_ROOT:-}/var/log/autoscaler/startup.log"',
    ),
    (
        "containers",
        2_000,
        _AS_ROOT + "$r docker ps --all --filter name=autoscaler- "
        "--format '{{.Names}} {{.Status}} {{.Image}}' 2>&1",
    ),
    (
        "server log",
        24_000,
        _AS_ROOT + "for c in $($r docker ps --all --quiet --filter name=autoscaler-); do "
        '$r docker logs --tail 200 "$c" 2>&1 | tail -c 8000; done; '
        'tail -c 8000 "${VM_ROOT:-}/var/log/autoscaler/server.log" 2>/dev/null',
    ),
    ("nvidia-smi", 6_000, "nvidia-smi 2>&1"),
    (
        "kernel",
        4_000,
        'if [ -n "${VM_ROOT:-}" ]; then cat "$VM_ROOT/var/log/dmesg" 2>/dev/null; '
        "else " + _AS_ROOT + "$r dmesg; fi "
        "| grep -iE 'NVRM: Xid|out of memory|oom-kill|I/O error' | tail -n 40",
    ),
    ("disk and memory", 2_000, 'df -h "${VM_ROOT:-/}"; free -m; uptime'),
)


async def collect(shell: NodeShell, secrets: Iterable[str] = ()) -> str:
    """Gather what the node still tells, at most 64 kB.

    Args:
        secrets: texts that must not appear in it, such as the nonce and the hub's token.
    """
    hidden = tuple(secrets)
    parts: list[str] = []
    room = LIMIT_BYTES
    for title, limit, command in _SECTIONS:
        try:
            output = await shell.run(command, timeout_s=_SECTION_S, max_bytes=4 * limit)
        except NodeUnreachable as exc:
            parts.append(f"== {title}\nnot read: {exc}\n")
            break
        said = output.stdout or output.stderr
        text = last_bytes(redacted(said, hidden).strip("\n"), min(limit, room))
        room -= len(text.encode()) + len(title) + 8
        parts.append(f"== {title}\n{text}\n" if text else f"== {title}\n(nothing)\n")
        if room <= 0:
            break
    return "".join(parts)[:LIMIT_BYTES]
