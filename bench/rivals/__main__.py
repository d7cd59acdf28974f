"""`python -m bench.rivals [NAME…]`: what each rival does at its defaults, who says so, and what a tuner may try."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from bench.rivals.catalogue import RIVALS
from bench.rivals.law import Parameter, Rival, Sizing

SHOWN = Sizing(requests_per_s=2.0, concurrency=32.0, max_replicas=20, peak_requests_per_s=20.0)


def main(names: Sequence[str]) -> int:
    """Print them as Markdown; 2 when a name is unknown."""
    if unknown := [n for n in names if n not in RIVALS]:
        print(f"{unknown[0]}: no such rival; there are: {', '.join(RIVALS)}", file=sys.stderr)
        return 2
    print("Ranges are those of a replica sized at 2 requests/s and 32 requests in flight.")
    for name in names or RIVALS:
        print("\n".join(_told(RIVALS[name])))
    return 0


def _told(rival: Rival) -> Iterator[str]:
    yield f"\n## {rival.name} ({rival.version})\n"
    yield f"Law: {rival.stated}. Signal: {rival.signal}. Tested against {rival.tested}.\n"
    yield "| setting | default | tried | source |"
    yield "| --- | --- | --- | --- |"
    for p in rival.parameters(SHOWN):
        yield f"| `{p.name}` | {p.default} | {_tried(p)} | {p.source} |"
    yield ""
    yield from (f"- {deviation}" for deviation in rival.deviations)


def _tried(parameter: Parameter) -> str:
    if parameter.choices:
        return ", ".join(str(c) for c in parameter.choices)
    if not parameter.searched:
        return "-"
    return f"{parameter.low:g} to {parameter.high:g}{', log' if parameter.log else ''}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
