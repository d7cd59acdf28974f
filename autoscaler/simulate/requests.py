"""The requests of a backtest, and what became of each: arrays, since there may be millions."""

from __future__ import annotations

import math
from array import array


class Requests:
    """All requests of a run, one place each in every array.

    Attributes:
        ttft_s: seconds to the first token; NaN when none came.
        ended_s: second of the trace at which the last token came; NaN when it never did.
        lost: 1 where a request was refused, given up or cut.
    """

    def __init__(self) -> None:
        self.arrival_s = array("d")
        self.prompt_tokens = array("q")
        self.output_tokens = array("q")
        self.ttft_s = array("d")
        self.ended_s = array("d")
        self.lost = bytearray()

    def __len__(self) -> int:
        return len(self.arrival_s)

    def add(self, arrival_s: float, prompt_tokens: int, output_tokens: int) -> None:
        """Take one in whose fate is not known yet."""
        self.arrival_s.append(arrival_s)
        self.prompt_tokens.append(prompt_tokens)
        self.output_tokens.append(output_tokens)
        self.ttft_s.append(math.nan)
        self.ended_s.append(math.nan)
        self.lost.append(0)

    def itl_s(self, index: int) -> float | None:
        """Mean seconds between a request's tokens; None when it had fewer than two, or was lost."""
        tokens = self.output_tokens[index]
        if tokens < 2 or self.lost[index]:
            return None
        first_s = self.arrival_s[index] + self.ttft_s[index]
        return (self.ended_s[index] - first_s) / (tokens - 1)
