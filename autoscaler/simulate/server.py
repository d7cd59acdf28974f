"""One replica under continuous batching, exact from event to event.

Between two events (a request comes in, a prompt is read, a sequence ends) every step gives each running sequence one
token, and the steps grow longer by a constant as the contexts do. So a stride of k steps has a closed length, and the
replica goes from event to event in O(log n), however many tokens lie between: running sequences share one clock that
counts steps, and a heap says at which step each ends.

The engine's rules are vLLM's, but one: prompts are read first come first served, at most `chunk_tokens` a step, beside
the running sequences; a step takes in who waits, in order, while there is room. Room is what differs: here a request
needs room for prompt *and* output when it is taken in, so nobody is ever preempted; vLLM admits by the prompt and
preempts when the cache overflows (docs/server-model.md says what that does to the figures).
"""

from __future__ import annotations

import math
from collections import deque
from functools import lru_cache
from heapq import heappop, heappush

from autoscaler.simulate.physics import ServerPhysics

_NEVER = math.inf
_Request = tuple[int, int, int]  # index, prompt tokens, output tokens


class Replica:
    """One model server: submit requests in order of time, advance, read who got a first token and who is done.

    Attributes:
        first, done: (index, time) of first and last tokens; the caller clears them.
        next_s: when the next event is, infinite when idle. Nothing happens before it unless a request is submitted.
        running, waiting: requests computed on, and queued in the engine.
    """

    __slots__ = (
        "_attended",
        "_base",
        "_chunk",
        "_context",
        "_decoding",
        "_entering",
        "_heap",
        "_held",
        "_longest",
        "_part",
        "_part_done",
        "_part_next",
        "_physics",
        "_start",
        "_steps",
        "_taken",
        "_tick",
        "_waiting",
        "done",
        "first",
        "next_s",
        "running",
    )

    def __init__(self, physics: ServerPhysics) -> None:
        self._physics = physics
        self._base = _bases(physics)
        self._longest = min(physics.max_model_len, physics.kv_tokens)
        self.first: list[tuple[int, float]] = []
        self.done: list[tuple[int, float]] = []
        self._clear()

    def _clear(self) -> None:
        self.next_s = _NEVER
        self.running = 0
        self._waiting: deque[_Request] = deque()
        self._heap: list[tuple[int, int, int, int]] = []  # last step, index, prompt, output
        self._decoding = 0
        self._context = 0  # tokens that the decoding sequences have in the cache
        self._held = 0  # tokens of the cache that are given away
        self._tick = 0  # steps so far
        self._start = 0.0  # when the stride in progress began
        self._steps = 0  # of the stride in progress
        # of the step in progress, when it reads prompts:
        self._entering: list[_Request] = []  # whose prompts it ends
        self._part: _Request | None = None  # whose prompt goes on after it
        self._part_done = 0
        self._part_next = 0
        self._chunk = 0
        self._attended = 0.0
        self._taken = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return self.running + len(self._waiting)

    @property
    def kv_use(self) -> float:
        """Share of the cache that is given away, 0 to 1."""
        return self._held / self._physics.kv_tokens

    def submit(self, index: int, prompt_tokens: int, output_tokens: int, at_s: float) -> None:
        """Take a request in, after `advance(at_s)`.

        What is longer than the model allows is cut. A request for one token or none, as for an embedding, is done
        at its first token.
        """
        prompt = max(1, min(prompt_tokens, self._longest - 1))
        output = max(1, min(output_tokens, self._longest - prompt))
        self._waiting.append((index, prompt, output))
        if self.next_s == _NEVER:
            self._begin(at_s)
        elif len(self._waiting) == 1:
            if at_s == self._start:
                self._plan()
            elif self._steps > 1 and self._has_room(prompt + output):
                self._cut(at_s)

    def advance(self, to_s: float) -> None:
        """Work off everything up to `to_s`, the events at that very time included."""
        while self.next_s <= to_s:
            self._finish()

    def abandon(self) -> list[int]:
        """The machine died: forget everything and say which requests were in flight."""
        lost = [index for _, index, _, _ in self._heap]
        lost += [index for index, _, _ in self._entering]
        if self._part is not None:
            lost.append(self._part[0])
        lost += [index for index, _, _ in self._waiting]
        self._clear()
        return lost

    # one stride --------------------------------------------------------------------------------------------------

    def _begin(self, at_s: float) -> None:
        """Start a stride at a boundary between steps."""
        self._start = at_s
        self._chunk = self._taken = 0
        self._attended = 0.0
        if self._part is not None:
            index, prompt, output = self._part
            left = prompt - self._part_done
            piece = min(left, max(0, self._physics.chunk_tokens - self._decoding))
            self._chunk = piece
            self._attended = piece * (self._part_done + piece / 2)
            if piece == left:
                self._entering.append((index, prompt, output))
                self._part = None
            else:
                self._part_next = piece
        self._plan()

    def _plan(self) -> None:
        """Take in who waits while there is room, and say when the stride ends."""
        waiting = self._waiting
        while waiting and self._part is None:
            free = self._physics.chunk_tokens - self._decoding - self._chunk
            index, prompt, output = waiting[0]
            if free <= 0 or not self._has_room(prompt + output):
                break
            waiting.popleft()
            self._held += prompt + output
            self.running += 1
            self._taken += 1
            piece = min(prompt, free)
            self._chunk += piece
            self._attended += piece * piece / 2
            if piece == prompt:
                self._entering.append((index, prompt, output))
            else:
                self._part, self._part_done, self._part_next = (index, prompt, output), 0, piece
        if self._chunk:
            physics = self._physics
            self._steps = 1
            length = physics.step_s(self._decoding, self._context, self._chunk, self._attended)
            self.next_s = self._start + length + self._taken * physics.request_s
        elif self._decoding:
            self._steps = self._heap[0][0] - self._tick
            self.next_s = self._start + self._length(self._steps)
        else:
            self.next_s = _NEVER

    def _finish(self) -> None:
        """End the stride in progress, and begin the next one at the same instant."""
        now = self.next_s
        self._tick += self._steps
        self._context += self._decoding * self._steps
        heap = self._heap
        while heap and heap[0][0] <= self._tick:
            _, index, prompt, output = heappop(heap)
            self._decoding -= 1
            self._context -= prompt + output - 1
            self._leave(index, prompt + output, now)
        if self._part is not None:
            self._part_done += self._part_next
            self._part_next = 0
        if self._entering:
            for index, prompt, output in self._entering:
                self.first.append((index, now))
                if output == 1:
                    self._leave(index, prompt + output, now)
                else:
                    heappush(heap, (self._tick + output - 1, index, prompt, output))
                    self._decoding += 1
                    self._context += prompt
            self._entering = []
        self._begin(now)

    def _leave(self, index: int, held: int, now: float) -> None:
        self._held -= held
        self.running -= 1
        self.done.append((index, now))

    def _has_room(self, tokens: int) -> bool:
        physics = self._physics
        return self.running < physics.max_num_seqs and self._held + tokens <= physics.kv_tokens

    def _length(self, steps: int) -> float:
        """Seconds of a stride that only decodes."""
        per_step = self._base[self._decoding] + self._context * self._physics.cache_s
        growth = self._decoding * self._physics.cache_s
        return steps * per_step + growth * (steps * (steps - 1) / 2)

    def _cut(self, at_s: float) -> None:
        """End the stride with the step in progress at `at_s`: the next one takes the new request in."""
        passed = at_s - self._start
        growth = self._decoding * self._physics.cache_s
        linear = self._base[self._decoding] + self._context * self._physics.cache_s - growth / 2
        # passed = linear·k + growth/2·k², solved in the form that does not cancel
        steps = math.ceil(2 * passed / (linear + math.sqrt(linear**2 + 2 * growth * passed)))
        steps = max(1, steps)
        while self._length(steps) < passed:
            steps += 1
        while steps > 1 and self._length(steps - 1) >= passed:
            steps -= 1
        if steps < self._steps:
            self._steps = steps
            self.next_s = self._start + self._length(steps)


@lru_cache(maxsize=64)
def _bases(physics: ServerPhysics) -> list[float]:
    """The length of a step without its context, by running sequences: looked up a million times."""
    return [physics.base_s(batch) for batch in range(physics.max_num_seqs + 1)]
