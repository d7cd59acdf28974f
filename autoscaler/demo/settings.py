"""The knobs of a demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MODEL = "demo/chat-8b"
MOST_PROMPT_TOKENS = 4000
MOST_OUTPUT_TOKENS = 400


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What to play.

    Attributes:
        trace: a CSV trace to replay; None generates one from the seed.
        traffic_s: length of the compressed traffic, in seconds.
        peak_per_s: requests per second at its fullest.
        time_factor: how much faster than a real one the emulated cloud is.
        engine: `emulated`, as fast as the VM's GPU type would be, or the real llama.cpp server.
        faults: whether stock is taken away and a machine killed on the way.
        report: directory of report.json and the picture.
        keep: directory to leave configs and logs in; None uses a temporary one.
    """

    trace: Path | None = None
    seed: int = 1
    traffic_s: float = 100.0
    peak_per_s: float = 12.0
    time_factor: float = 40.0
    engine: Literal["emulated", "llama.cpp"] = "emulated"
    faults: bool = True
    report: Path = Path("demo-report")
    keep: Path | None = None
    quiet: bool = False
