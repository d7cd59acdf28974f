"""Everything that happened, in order: calls with their callers, and what the cloud did."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `caller` is "" for what the cloud did by itself."""

    seq: int
    at: datetime
    kind: str
    caller: str = ""
    vm_id: str = ""
    name: str = ""
    details: dict[str, str] = field(default_factory=dict)


class Ledger:
    """A bounded record of events, numbered from 1 without gaps."""

    def __init__(self, limit: int) -> None:
        self._events: deque[Event] = deque(maxlen=limit)
        self._seq = 0
        self.counters: dict[str, int] = {}

    def record(
        self,
        at: datetime,
        kind: str,
        *,
        caller: str = "",
        vm_id: str = "",
        name: str = "",
        **details: object,
    ) -> Event:
        """Append one event and count its kind."""
        self._seq += 1
        self.counters[kind] = self.counters.get(kind, 0) + 1
        told = {key: str(value) for key, value in details.items()}
        event = Event(self._seq, at, kind, caller, vm_id, name, told)
        self._events.append(event)
        return event

    @property
    def dropped(self) -> int:
        """Events that no longer fit."""
        return self._seq - len(self._events)

    def events(
        self, *, after: int = 0, kind: str | None = None, name: str | None = None
    ) -> Iterator[Event]:
        """Events with a number above `after`, oldest first."""
        for event in self._events:
            if event.seq <= after or (kind is not None and event.kind != kind):
                continue
            if name is None or name in (event.name, event.vm_id):
                yield event
