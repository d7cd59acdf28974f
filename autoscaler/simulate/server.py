"""One replica under continuous batching, exact from event to event.

Between two events (a request comes in, a prompt is read, a sequence ends, the cache is full) every step gives each
running sequence one token, and the steps grow longer by a constant as the contexts do. So a stride of k steps has a
closed length, and the replica goes from event to event in O(log n), however many tokens lie between: running sequences
share one clock that counts steps, and a heap says at which step each ends.

The engine's rules are vLLM's: prompts are read first come first served, at most `chunk_tokens` a step, beside the
running sequences; a step takes in who waits, in order, while there is room for the whole prompt; when the cache is
full, the last that was taken in is sent back to the head of the queue, and reads its prompt and its answer so far anew.
"""

from __future__ import annotations

import math
from collections import deque
from functools import lru_cache
from heapq import heappop, heappush

from autoscaler.simulate.physics import ServerPhysics

_NEVER = math.inf
_Request = list[int]
# What a request is, as a list because a million of them are changed in place: its index, its prompt and output tokens,
# tokens given so far, and for one that decodes the step that it joined at, the one that it ends with, the tokens that
# were read.
_INDEX, _PROMPT, _OUTPUT, _GIVEN, _JOINED, _ENDS, _READ = range(7)


class Replica:
    """One model server: submit requests in order of time, advance, read who got a first token and who is done.

    Attributes:
        first, done: (index, time) of first and last tokens; the caller clears them.
        next_s: when the next event is, infinite when idle. Nothing happens before it unless a request is submitted.
        preempted: how often a request was sent back because the cache was full.
    """

    __slots__ = (
        "_attended",
        "_base",
        "_chunk",
        "_context",
        "_decoding",
        "_entering",
        "_entering_done",
        "_heap",
        "_is_full",
        "_longest",
        "_now",
        "_part",
        "_part_done",
        "_part_next",
        "_physics",
        "_running",
        "_start",
        "_steps",
        "_taken",
        "_tick",
        "_waiting",
        "done",
        "first",
        "next_s",
        "preempted",
    )

    def __init__(self, physics: ServerPhysics) -> None:
        self._physics = physics
        self._base = _bases(physics)
        self._longest = min(physics.max_model_len, physics.kv_tokens)
        self.first: list[tuple[int, float]] = []
        self.done: list[tuple[int, float]] = []
        self.preempted = 0
        self._now = 0.0
        self._clear()

    def _clear(self) -> None:
        self.next_s = _NEVER
        self._waiting: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}  # in the order that they were taken in
        self._heap: list[tuple[int, int]] = []  # last step, index; some of them sent back since
        self._decoding = 0
        self._context = 0  # tokens that the decoding sequences have in the cache
        self._tick = 0  # steps so far
        self._start = 0.0  # when the stride in progress began
        self._steps = 0  # of the stride in progress
        self._is_full = False  # it began with a request sent back: nobody is taken in
        # of the step in progress, when it reads prompts:
        self._entering: list[_Request] = []  # whose prompts it ends
        self._entering_done = 0  # tokens of the first of them that earlier steps read
        self._part: _Request | None = None  # whose prompt goes on after it
        self._part_done = 0
        self._part_next = 0
        self._chunk = 0
        self._attended = 0.0
        self._taken = 0

    @property
    def running(self) -> int:
        """Requests that are computed on."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests queued in the engine, those sent back included."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._running) + len(self._waiting)

    @property
    def kv_use(self) -> float:
        """Share of the cache in use, 0 to 1, as of the last `advance`."""
        used = self._context + self._part_done + self._entering_done
        if self._decoding and self._now > self._start:
            passed = min(1.0, (self._now - self._start) / (self.next_s - self._start))
            used += int(passed * self._steps) * self._decoding
        return used / self._physics.kv_tokens

    def submit(self, index: int, prompt_tokens: int, output_tokens: int, at_s: float) -> None:
        """Take a request in, after `advance(at_s)`.

        What is longer than the model allows is cut. A request for one token or none, as for an embedding, is done
        at its first token.
        """
        prompt = max(1, min(prompt_tokens, self._longest - 1))
        output = max(1, min(output_tokens, self._longest - prompt))
        self._waiting.append([index, prompt, output, 0, 0, 0, 0])
        if self.next_s == _NEVER:
            self._begin(at_s)
        elif len(self._waiting) == 1:  # else who waits already is in its way
            if at_s == self._start:
                self._plan()
            elif self._steps > 1 and self._has_room(prompt):
                self._cut(at_s)

    def advance(self, to_s: float) -> None:
        """Work off everything up to `to_s`, the events at that very time included."""
        while self.next_s <= to_s:
            self._finish()
        self._now = to_s

    def abandon(self) -> list[int]:
        """The machine died: forget everything and say which requests were in flight."""
        lost = [*self._running, *(request[_INDEX] for request in self._waiting)]
        self._clear()
        return lost

    # one stride --------------------------------------------------------------------------------------------------

    def _begin(self, at_s: float) -> None:
        """Start a stride at a boundary between steps."""
        self._start = at_s
        self._chunk = self._taken = self._entering_done = 0
        self._attended = 0.0
        self._is_full = False
        part = self._part
        if part is not None or self._context + self._decoding > self._physics.kv_tokens:
            self._make_room()
            part = self._part
        if part is not None:
            piece = self._part_piece(part)
            self._chunk = piece
            self._attended = piece * (self._part_done + piece / 2)
            if self._part_done + piece == part[_PROMPT] + part[_GIVEN]:
                self._entering.append(part)
                self._entering_done = self._part_done
                self._part = None
                self._part_done = 0
            else:
                self._part_next = piece
        self._plan()

    def _make_room(self) -> None:
        """Send the last ones back until the next step of the others fits into the cache."""
        while True:
            need = self._context + self._decoding
            if self._part is not None:
                need += self._part_done + self._part_piece(self._part)
            if need <= self._physics.kv_tokens:
                return
            self._is_full = True
            self._send_back()

    def _send_back(self) -> None:
        _, request = self._running.popitem()
        if request is self._part:
            self._part = None
            self._part_done = 0
        else:
            steps = self._tick - request[_JOINED]
            request[_GIVEN] += steps
            request[_ENDS] = -1
            self._context -= request[_READ] + steps
            self._decoding -= 1
        self._waiting.appendleft(request)
        self.preempted += 1

    def _plan(self) -> None:
        """Take in who waits while there is room, and say when the stride ends."""
        waiting = self._waiting
        while waiting and self._part is None and not self._is_full:
            free = self._physics.chunk_tokens - self._decoding - self._chunk
            request = waiting[0]
            read = request[_PROMPT] + request[_GIVEN]
            if free <= 0 or not self._has_room(read):
                break
            waiting.popleft()
            self._running[request[_INDEX]] = request
            self._taken += 1
            piece = min(read, free)
            self._chunk += piece
            self._attended += piece * piece / 2
            if piece == read:
                self._entering.append(request)
            else:
                self._part, self._part_done, self._part_next = request, 0, piece
        if self._chunk:
            physics = self._physics
            self._steps = 1
            length = physics.step_s(self._decoding, self._context, self._chunk, self._attended)
            self.next_s = self._start + length + self._taken * physics.request_s
        elif self._decoding:
            until_full = (self._physics.kv_tokens - self._context) // self._decoding
            self._steps = min(self._heap[0][0] - self._tick, until_full)
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
            ends, index = heappop(heap)
            request = self._running.get(index)
            if request is not None and request[_ENDS] == ends:
                del self._running[index]
                self._decoding -= 1
                self._context -= request[_PROMPT] + request[_OUTPUT] - 1
                self.done.append((index, now))
        if self._part is not None:
            self._part_done += self._part_next
            self._part_next = 0
        if self._entering:
            for request in self._entering:
                self._join(request, now)
            self._entering = []
        self._begin(now)

    def _join(self, request: _Request, now: float) -> None:
        """A prompt is read: its next token is there, and it decodes from the next step on."""
        index, prompt, output, given = request[:4]
        if not given:
            self.first.append((index, now))
        given += 1
        if given == output:
            del self._running[index]
            self.done.append((index, now))
            return
        ends = self._tick + output - given
        request[_GIVEN:] = given, self._tick, ends, prompt + given - 1
        heappush(self._heap, (ends, index))
        self._decoding += 1
        self._context += prompt + given - 1

    def _part_piece(self, part: _Request) -> int:
        """How much of a prompt that was begun the next step reads."""
        left = part[_PROMPT] + part[_GIVEN] - self._part_done
        return min(left, max(0, self._physics.chunk_tokens - self._decoding))

    def _has_room(self, tokens: int) -> bool:
        physics = self._physics
        used = self._context + self._decoding + self._chunk + self._entering_done
        return len(self._running) < physics.max_num_seqs and used + tokens <= physics.kv_tokens

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
