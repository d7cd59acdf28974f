"""The twenty invariants, each as an executable check with its number and its name.

Nothing here knows how the world is run. A check looks at three things: the store's rows, the cloud's own books (what
exists, what bills), and what was sent and placed (calls, words to balancers, clients' requests). The simulation feeds
it event by event; a suite with real processes can feed it from the emulator's ledger, the store's file and its clients.

Some promises hold only while the daemon can act: a machine is not given back while nobody answers. `able` says for how
much of the time since the last look it could: deadlines count only that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import IntEnum

from autoscaler.domain.ids import IntentId, ModelName, NodeName
from autoscaler.domain.node import CLOSED, Node, State
from tests.faults.bounds import Bounds, passed


class Invariant(IntEnum):
    """Their numbers."""

    KNOWN = 1
    ONE_PER_INTENT = 2
    CAP = 3
    MONEY = 4
    INTENT_FIRST = 5
    ONLY_OURS = 6
    VERIFIED = 7
    NO_CUT = 8
    DATA = 9
    PACE = 10
    GONE_IS_ABSENT = 11
    DELETE_NEVER_GIVES_UP = 12
    RESTART_KILLS_NOTHING = 13
    ONE_ACTOR = 14
    PINNED = 15
    SILENT = 16
    BOUNDED = 17
    HEALS = 18
    EXPLAINED = 19
    METERED = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise."""

    invariant: Invariant
    at: datetime
    what: str

    def __str__(self) -> str:
        name = self.invariant.name.lower().replace("_", " ")
        return f"{self.invariant.value} {name}: {self.what} ({self.at:%d %b %H:%M:%S})"


@dataclass(frozen=True, slots=True)
class Booked:
    """A machine in the cloud's own books: `gone_at` None while it exists.

    Attributes:
        usd: what it has cost by now, by the cloud's meter.
    """

    id: str
    name: str
    created_at: datetime
    gone_at: datetime | None
    usd_per_hour: Decimal
    usd: Decimal
    listed: bool = True


@dataclass(frozen=True, slots=True)
class Rules:
    """What this deployment promises.

    Attributes:
        mark: the beginning of our machines' names.
        grace: how long one of ours may bill unknown; `round`: of the sweep.
        retry: how long a delete may go untried.
        slack: what a deadline of minutes is late by, on a busy host.
        landing: how long an effect may be on its way, while its row already says something else.
    """

    mark: str
    grace: timedelta = timedelta(minutes=10)
    round: timedelta = timedelta(seconds=60)
    retry: timedelta = timedelta(minutes=5)
    slack: timedelta = timedelta(minutes=4)
    landing: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Scene:
    """The world at one look.

    Attributes:
        rows: every row there ever was.
        booked: every machine that ever was.
        able: for how long, since the last look, a daemon was up and the cloud, the store and it could talk.
        may_delete: the same, and no balancer was away, so that a served node may be given back.
        deceived: whether two witnesses lied at once lately.
    """

    now: datetime
    rows: Mapping[NodeName, Node]
    booked: Sequence[Booked]
    able: timedelta
    may_delete: timedelta
    deceived: bool = False


@dataclass
class Inspector:
    """Keeps what the checks must remember, and every violation once."""

    rules: Rules
    on_violation: Callable[[Violation], None] = lambda violation: None
    violations: list[Violation] = field(default_factory=list)
    _told: set[tuple[int, str]] = field(default_factory=set)
    _created: dict[str, datetime] = field(default_factory=dict)
    _asked: Counter[str] = field(default_factory=Counter)
    _unknown_for: dict[str, timedelta] = field(default_factory=dict)
    _untried: dict[NodeName, tuple[int, timedelta]] = field(default_factory=dict)
    _before: dict[NodeName, tuple[State, datetime]] = field(default_factory=dict)
    _drains: dict[NodeName, datetime] = field(default_factory=dict)
    _gone: set[NodeName] = field(default_factory=set)
    _epochs: dict[ModelName, int] = field(default_factory=dict)

    def violated(self, invariant: Invariant, at: datetime, subject: str, what: str) -> None:
        """Note a violation, of each subject once."""
        if (invariant, subject) in self._told:
            return
        self._told.add((invariant, subject))
        violation = Violation(invariant, at, what)
        self.violations.append(violation)
        self.on_violation(violation)

    # what was sent

    def create_sent(self, name: str, at: datetime, rows: Mapping[NodeName, Node]) -> None:
        """2 and 5: a name goes out in one create call, after a committed row that names it."""
        if name in self._created:
            self.violated(Invariant.ONE_PER_INTENT, at, name, f"{name} was sent twice")
        self._created[name] = at
        row = rows.get(NodeName(name))
        if row is None:
            self.violated(Invariant.INTENT_FIRST, at, name, f"create of {name} without a row")
        elif row.state is not State.CREATING:
            self.violated(
                Invariant.INTENT_FIRST, at, name, f"create of {name}, which is {row.state}"
            )
        if not name.startswith(self.rules.mark):
            self.violated(Invariant.ONLY_OURS, at, name, f"create of {name}, not our mark")

    def delete_sent(
        self, machine: Booked | None, at: datetime, rows: Mapping[NodeName, Node], what: str
    ) -> None:
        """5 and 6: what is deleted or stopped carries our mark, and a row says that it is to go."""
        if machine is None:
            return
        self._asked[machine.id] += 1
        if not machine.name.startswith(self.rules.mark):
            self.violated(Invariant.ONLY_OURS, at, machine.id, f"{what} of {machine.name}")
            return
        row = self._row_of(machine, rows)
        if row is None or row.state is not State.TERMINATING:
            state = row.state if row is not None else "in no row"
            self.violated(
                Invariant.INTENT_FIRST, at, machine.id, f"{what} of {machine.name}, {state}"
            )

    def row_changed(self, before: Node, after: Node, at: datetime) -> None:
        """Hear of a row's new state: an effect of the one before may land a moment later."""
        if after.state is before.state:
            return
        self._before[after.name] = (before.state, at)
        if after.state is State.DRAINING:
            self._drains[after.name] = at
        self.explained(at, after.name, f"is {after.state} for no reason", after.reason)

    def since(self, row: Node) -> datetime:
        """When its state was entered, by the true time: a row has it by its host's clock."""
        return self._before.get(row.name, (row.state, row.since))[1]

    def drained_for(self, name: NodeName, at: datetime) -> timedelta:
        """How long ago its last drain began, by the true time; nothing where none did."""
        return at - self._drains.get(name, at)

    def balancer_told(
        self, kind: str, endpoint: str, at: datetime, rows: Mapping[NodeName, Node]
    ) -> None:
        """5: a register or a removal follows the row that names it."""
        name = NodeName(endpoint.partition(".")[0])
        row = rows.get(name)
        allowed = {
            "register": (State.VERIFYING, State.READY),
            "drain": (*CLOSED, State.DRAINING, State.FAILED, State.TERMINATING),
            "remove": (*CLOSED, State.DRAINING, State.TERMINATING),
            "cut": (*CLOSED, State.DRAINING, State.TERMINATING),
        }[kind]
        was, changed_at = self._before.get(name, (None, at))
        if was in allowed and at - changed_at < self.rules.landing:
            return
        if row is None or row.state not in allowed:
            state = row.state if row is not None else "in no row"
            self.violated(
                Invariant.INTENT_FIRST, at, f"{kind} {name}", f"{kind} of {name}, {state}"
            )

    def planned(
        self,
        admitted: Sequence[Node],
        at: datetime,
        rows: Mapping[NodeName, Node],
        bounds: Bounds,
        decided_at: datetime,
    ) -> None:
        """3 and 4: what was just admitted is within every limit, counting all that may bill.

        Args:
            decided_at: by the clock of the daemon's host, by which it dates rows.
        """
        for one in passed(bounds, admitted, rows, decided_at):
            self.violated(
                Invariant.MONEY if one.is_money else Invariant.CAP, at, one.subject, one.what
            )

    def explained(self, at: datetime, subject: str, what: str, *words: str) -> None:
        """19: whatever is done, decided or refused has its words."""
        if not all(word.strip() for word in words):
            self.violated(Invariant.EXPLAINED, at, f"{subject} {what}", f"{subject}: {what}")

    def epoch_used(self, model: ModelName, epoch: int, at: datetime) -> None:
        """14: the epochs under which a model's rows are written never fall."""
        if epoch < self._epochs.get(model, 0):
            self.violated(
                Invariant.ONE_ACTOR,
                at,
                f"{model}/{epoch}",
                f"{model} written under epoch {epoch} after {self._epochs[model]}",
            )
        self._epochs[model] = max(epoch, self._epochs.get(model, 0))

    def placed(
        self, endpoint: str, machine_id: str, at: datetime, rows: Mapping[NodeName, Node]
    ) -> None:
        """7: a request runs where a verified node of ours stands, and nowhere else."""
        name = NodeName(endpoint.partition(".")[0])
        row = rows.get(name)
        if row is None:
            why = "in no row"
        elif row.verified_at is None:
            why = f"never verified ({row.state})"
        elif row.machine_id != machine_id:
            why = f"its address is another machine's ({row.state})"
        elif row.unregistered_at is not None or row.state in CLOSED:
            why = f"it has left the balancers ({row.state})"
        else:
            return
        self.violated(Invariant.VERIFIED, at, endpoint, f"a request went to {endpoint}: {why}")

    def cut(self, endpoint: str, at: datetime, why: str) -> None:
        """8: whoever calls this has found that no fault excuses it."""
        self.violated(Invariant.NO_CUT, at, endpoint, f"a request on {endpoint} was cut: {why}")

    # how things stand

    def look(self, scene: Scene) -> None:
        """Check all that must hold at any moment."""
        for check in (self._known, self._twins, self._never_gives_up, self._gone_is_absent):
            check(scene)

    def _row_of(self, machine: Booked, rows: Mapping[NodeName, Node]) -> Node | None:
        """A machine's row, by its id, else by its name; an open one, if there is any."""
        its = [row for row in rows.values() if row.machine_id == machine.id]
        named = rows.get(NodeName(machine.name))
        if named is not None and named.machine_id is None:
            its.append(named)
        return next((row for row in its if row.state not in CLOSED), its[0] if its else None)

    def _known(self, scene: Scene) -> None:
        """1: what bills with our mark has a live row, or is being deleted, or is young."""
        limit = self.rules.grace + 3 * self.rules.round + self.rules.slack
        for machine in scene.booked:
            if machine.gone_at is not None or not machine.name.startswith(self.rules.mark):
                continue
            row = self._row_of(machine, scene.rows)
            is_live = row is not None and row.state not in CLOSED
            if is_live or not machine.listed:
                self._unknown_for.pop(machine.id, None)
                continue
            age = self._unknown_for.get(machine.id, timedelta(0)) + scene.able
            self._unknown_for[machine.id] = age
            if age > limit:
                self.violated(
                    Invariant.KNOWN,
                    scene.now,
                    machine.id,
                    f"{machine.name} bills and no live row knows it for {age}",
                )

    def _twins(self, scene: Scene) -> None:
        """2: an intent has at most one machine that serves."""
        serving: dict[IntentId, NodeName] = {}
        for row in scene.rows.values():
            if row.state is not State.READY:
                continue
            other = serving.setdefault(row.intent, row.name)
            if other != row.name:
                self.violated(
                    Invariant.ONE_PER_INTENT, scene.now, row.intent, f"{other} and {row.name} serve"
                )

    def _never_gives_up(self, scene: Scene) -> None:
        """12: what is to go was asked to within the last five minutes, for ever.

        What exists is asked by calls that reach the cloud; of what does not, the row counts the tries.
        """
        there = {m.id for m in scene.booked if m.gone_at is None}
        for row in scene.rows.values():
            if row.state is not State.TERMINATING:
                continue
            asked = self._asked[row.machine_id] if row.machine_id in there else row.deletes
            before, age = self._untried.get(row.name, (asked, timedelta(0)))
            age = age + scene.may_delete if before == asked else timedelta(0)
            self._untried[row.name] = (asked, age)
            if age > self.rules.retry + self.rules.slack:
                self.violated(
                    Invariant.DELETE_NEVER_GIVES_UP,
                    scene.now,
                    row.name,
                    f"{row.name}: no delete was tried for {age} (tries: {row.deletes})",
                )

    def _gone_is_absent(self, scene: Scene) -> None:
        """11: what is recorded as gone does not exist."""
        exists = {m.id: m for m in scene.booked if m.gone_at is None}
        names = {m.name for m in exists.values()}
        for row in scene.rows.values():
            if row.state is State.CANCELLED and row.name in names and not scene.deceived:
                self.violated(
                    Invariant.GONE_IS_ABSENT,
                    scene.now,
                    row.name,
                    f"{row.name} was never made, and exists",
                )
            if row.state is not State.GONE or row.name in self._gone:
                continue
            self._gone.add(row.name)
            if row.machine_id in exists and not scene.deceived:
                self.violated(
                    Invariant.GONE_IS_ABSENT, scene.now, row.name, f"{row.name} is gone, and exists"
                )
