"""The records of a pair in memory: budgets, conflicts, halts, cursors, notes. See ``MemoryState``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Self

import msgspec

from federation.ports import Clock
from federation.progress import (
    DEAD_LETTER_BYTES,
    DEAD_LETTERS,
    RENAME_WINDOW_SECONDS,
    ConflictRecord,
    Cursor,
    DeadLetter,
    DeadTally,
    DeleteBudget,
    DeleteTally,
    HaltRecord,
    Held,
)
from federation.rules.guards import delete_limit

_SECOND_US = 1_000_000

Halves = dict[tuple[int, str], str]
"""Window and content of one half of a rename, and its key."""


class _Outside(Counter[int]):
    """What processes remember: a copy of the state, to go back to, shares it."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


class MemoryRecords:
    """See ``ports.State``; the docstrings there hold."""

    _clock: Clock

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._created: Halves = {}
        self._deleted: Halves = {}
        self._renames: dict[str, int] = {}
        self._deletes: dict[str, int] = {}
        self._reverts: dict[str, dict[str, int]] = {}
        self._conflicts: dict[str, ConflictRecord] = {}
        self._halts: dict[str, HaltRecord] = {}
        self._cursors: dict[str, Cursor] = {}
        self._tasks: dict[str, tuple[str, float]] = {}
        self._notes: dict[str, bytes] = {}
        self.told_paces: dict[str, dict[str, bytes]] = {}
        """By endpoint and process; pairs of one server have the same."""
        self._dead: list[DeadLetter] = []
        self._dead_newest: dict[str, int] = {}
        self._dead_bytes = 0
        self._dead_dropped = 0
        self._counts: Counter[int] = Counter()
        """Calls of ``mark`` by shard, and what their maker knows of them (``marks.py``)."""
        self._made = _Outside()

    def _count_calls(self, shards: Iterable[int]) -> None:
        for shard in shards:
            if self._counts[shard] >= self._made[shard]:
                self._counts[shard] += 1
                self._made[shard] = self._counts[shard]

    async def note_created(self, key: str, content: str, *, now_us: int) -> None:
        """As in the port."""
        self._note_half(self._created, self._deleted, key, content, now_us)

    async def note_deleted(self, key: str, content: str, *, now_us: int) -> None:
        """As in the port."""
        self._note_half(self._deleted, self._created, key, content, now_us)

    def _note_half(self, mine: Halves, other: Halves, key: str, content: str, now_us: int) -> None:
        window = now_us // (RENAME_WINDOW_SECONDS * _SECOND_US)
        mine[window, content] = key
        for at in (window - 1, window):
            found = other.get((at, content), key)
            if found != key:
                self._renames[key if mine is self._deleted else found] = now_us
        for halves in (mine, other):
            for old in [place for place in halves if place[0] < window - 1]:
                del halves[old]

    async def delete_tally(self, budget: DeleteBudget, *, now_us: int) -> DeleteTally:
        """As in the port."""
        start = now_us - int(budget.window_seconds * _SECOND_US)
        done = [name.partition(":")[2] for name, at in self._deletes.items() if at > start]
        return DeleteTally(
            len(done),
            sum(key in self._renames for key in done),
            len(self._held),
            sum(key in self._renames for key in self._held),
        )

    async def reserve_delete(self, name: str, budget: DeleteBudget, *, objects: int, now_us: int) -> bool:
        """As in the port."""
        start = now_us - int(budget.window_seconds * 1_000_000)
        self._deletes = {one: at for one, at in self._deletes.items() if at > start}
        limit = delete_limit(objects + len(self._deletes), count=budget.count, share=budget.share)
        if name not in self._deletes and len(self._deletes) >= limit:
            return False
        self._deletes.setdefault(name, now_us)
        return True

    async def reserve_revert(self, key: str, name: str, *, limit: int, window_seconds: float, now_us: int) -> bool:
        """As in the port."""
        start = now_us - int(window_seconds * _SECOND_US)
        granted = {one: at for one, at in self._reverts.get(key, {}).items() if at > start}
        self._reverts[key] = granted
        if name not in granted and len(granted) >= limit:
            return False
        granted.setdefault(name, now_us)
        return True

    async def record_conflict(self, record: ConflictRecord) -> None:
        """As in the port."""
        self._conflicts.setdefault(record.conflict_id, record)

    async def conflicts(self, key: str | None = None) -> list[ConflictRecord]:
        """As in the port."""
        wanted = [one for one in self._conflicts.values() if key in (None, one.key)]
        return sorted(wanted, key=lambda one: (one.at_us, one.key))

    async def conflict_ids(self) -> set[str]:
        """As in the port."""
        return set(self._conflicts)

    async def drop_conflict(self, conflict_id: str) -> bool:
        """As in the port."""
        return self._conflicts.pop(conflict_id, None) is not None

    async def halt(self, record: HaltRecord) -> None:
        """As in the port."""
        self._halts.setdefault(record.name, record)

    async def halts(self) -> list[HaltRecord]:
        """As in the port."""
        return sorted(self._halts.values(), key=lambda one: one.name)

    async def lift(self, name: str) -> bool:
        """As in the port."""
        return self._halts.pop(name, None) is not None

    async def cursor(self, source: str) -> Cursor | None:
        """As in the port."""
        return self._cursors.get(source)

    async def move_cursor(self, source: str, old: Cursor | None, new: Cursor) -> bool:
        """As in the port."""
        if self._cursors.get(source) != old:
            return False
        self._cursors[source] = new
        return True

    async def lost_marks(self) -> tuple[str, ...]:
        """As in the port; what is in memory goes back as a whole, cursors too."""
        return ("",) if any(self._counts[shard] < count for shard, count in self._made.items()) else ()

    async def accept_lost_marks(self) -> None:
        """As in the port."""
        self._made.clear()
        self._made.update(self._counts)

    async def forget_markers(self, live: Sequence[str]) -> int:
        """As in the port; none are counted."""
        del live
        return 0

    async def keep_marks(self, task: str) -> None:
        """As in the port; nothing outlives the process."""

    async def drop_marks(self, task: str) -> None:
        """As in the port."""

    async def own(self, task: str, *, owner: str, ttl_seconds: float) -> bool:
        """As in the port."""
        if self._owner_of(task) not in (None, owner):
            return False
        self._tasks[task] = (owner, self._clock.monotonic_seconds() + ttl_seconds)
        return True

    async def disown(self, task: str, *, owner: str) -> None:
        """As in the port."""
        if self._owner_of(task) == owner:
            del self._tasks[task]

    async def owners(self, prefix: str) -> dict[str, str]:
        """As in the port."""
        return {task: owner for task in self._tasks if task.startswith(prefix) and (owner := self._owner_of(task)) is not None}

    def _owner_of(self, task: str) -> str | None:
        owner, until_seconds = self._tasks.get(task, ("", 0.0))
        return owner if until_seconds > self._clock.monotonic_seconds() else None

    async def put_note(self, name: str, value: bytes) -> None:
        """As in the port."""
        if value:
            self._notes[name] = value
        else:
            self._notes.pop(name, None)

    async def tell_pace(self, endpoint: str, process: str, told: bytes) -> None:
        """As in the port."""
        said = self.told_paces.setdefault(endpoint, {})
        if told:
            said[process] = told
        else:
            said.pop(process, None)

    async def paces(self, endpoint: str) -> dict[str, bytes]:
        """As in the port."""
        return dict(self.told_paces.get(endpoint, {}))

    async def drop_note(self, name: str, value: bytes) -> bool:
        """As in the port."""
        if self._notes.get(name) != value:
            return False
        del self._notes[name]
        return True

    async def note(self, name: str) -> bytes | None:
        """As in the port."""
        return self._notes.get(name)

    async def notes(self, prefix: str) -> dict[str, bytes]:
        """As in the port."""
        return {name: value for name, value in self._notes.items() if name.startswith(prefix)}

    async def bury(self, letter: DeadLetter) -> None:
        """As in the port."""
        self._dead.append(letter)
        self._dead_bytes += _packed_bytes(letter)
        self._dead_newest[letter.source] = letter.at_us
        while len(self._dead) > DEAD_LETTERS or self._dead_bytes > DEAD_LETTER_BYTES:
            self._dead_bytes -= _packed_bytes(self._dead.pop(0))
            self._dead_dropped += 1

    def _dead_tally(self) -> DeadTally:
        return DeadTally(len(self._dead), self._dead_bytes, self._dead_dropped, dict(self._dead_newest))

    async def dead_letters(self) -> list[DeadLetter]:
        """As in the port."""
        return list(self._dead)


def _packed_bytes(letter: DeadLetter) -> int:
    return len(msgspec.json.encode(letter))
