"""The knobs of a demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MODEL = "demo/chat-8b"  # what the clients ask for; with llama.cpp an alias of its tiny model
TTFT_TARGET_S = 2.0  # as in the policy
TRAFFIC_S = 100.0
TIME_FACTOR = 40.0

Engine = Literal["emulated", "llama.cpp"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What one engine is asked to do on this computer.

    Attributes:
        peak_per_s: requests per second at the fullest, unless told otherwise.
        most_prompt_words, most_output_tokens: larger requests of a trace are cut to these.
        height: nodes that must serve before one is killed in a run of the default length.
    """

    peak_per_s: float
    most_prompt_words: int
    most_output_tokens: int
    height: int


SIZES: dict[Engine, Sizes] = {
    "emulated": Sizes(12.0, 4000, 400, 3),
    # its vocabulary is of bytes, so a word is up to six tokens, and it has a context of 2048
    "llama.cpp": Sizes(6.0, 200, 48, 2),
}


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What to play.

    Attributes:
        trace: a CSV trace to replay; None generates one from the seed.
        traffic_s: length of the compressed traffic, in seconds.
        peak_per_s: requests per second at its fullest; None is what suits the engine.
        time_factor: how much faster than a real one the emulated cloud is.
        engine: `emulated`, as fast as the VM's GPU type would be, or the real llama.cpp server.
        faults: whether stock is taken away and a machine killed on the way.
        report: directory of report.json and the picture.
        keep: directory to leave configs and logs in; None uses a temporary one.
    """

    trace: Path | None = None
    seed: int = 1
    traffic_s: float = TRAFFIC_S
    peak_per_s: float | None = None
    time_factor: float = TIME_FACTOR
    engine: Engine = "emulated"
    faults: bool = True
    report: Path = Path("demo-report")
    keep: Path | None = None

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.engine]

    @property
    def peak(self) -> float:
        return self.peak_per_s if self.peak_per_s is not None else self.sizes.peak_per_s

    @property
    def height(self) -> int:
        """Nodes that must serve before one is killed; a shorter run has no time for three."""
        return self.sizes.height if self.traffic_s >= TRAFFIC_S else min(2, self.sizes.height)

    @property
    def has_story(self) -> bool:
        """Whether the run is meant to meet thin stock, a stock-out and a death."""
        return self.faults and self.engine == "emulated"

    @property
    def promises_story(self) -> bool:
        """Whether a run that did not show the story is a failure: not with a trace of one's own, nor a smaller run."""
        return (
            self.has_story
            and self.trace is None
            and self.traffic_s >= TRAFFIC_S
            and self.peak >= self.sizes.peak_per_s
            and self.time_factor >= TIME_FACTOR
        )
