"""The half of the state port that holds a pair's records: conflicts, halts, positions, notes, dead letters, transfers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from federation.progress import ConflictRecord, Cursor, DeadLetter, HaltRecord, Lease, Parked, TransferRecord


class Records(Protocol):
    """What ``ports.State`` is besides. Every step is atomic. RetryLater when the store cannot be reached."""

    async def record_conflict(self, record: ConflictRecord) -> None:
        """Idempotent by ``conflict_id``."""
        ...

    async def conflicts(self, key: str | None = None) -> list[ConflictRecord]:
        """All open conflicts, or those of *key*, oldest first; there may be a million, of which only what is told is kept."""
        ...

    async def conflict_ids(self) -> set[str]:
        """Of all open conflicts."""
        ...

    async def drop_conflict(self, conflict_id: str) -> bool:
        """Forget one record (the copy is not touched)."""
        ...

    async def halt(self, record: HaltRecord) -> None:
        """Stop the pair; the first record of a name stays."""
        ...

    async def halts(self) -> list[HaltRecord]:
        """Names of the states that hold the pair."""
        ...

    async def lift(self, name: str) -> bool:
        """End one halt."""
        ...

    async def cursor(self, source: str) -> Cursor | None:
        """The position of *source*."""
        ...

    async def move_cursor(self, source: str, old: Cursor | None, new: Cursor) -> bool:
        """Compare-and-set; False when somebody else moved it."""
        ...

    async def lost_marks(self) -> tuple[str, ...]:
        """Whose marks are gone although ``mark`` returned: names of sources by their cursors, "" for this process's own.

        Tasks of ``keep_marks`` are named too, each with a colon and more behind.
        A fail-over or a restored snapshot took them back. Reading again from the cursor would not bring them: a whole scan does.
        Note that one is wanted, then ``accept_lost_marks``. A source need not ask: ``move_cursor`` remembers what its position
        stands for.
        """
        ...

    async def accept_lost_marks(self) -> None:
        """A whole scan has to find what was lost, and that is noted: ``lost_marks`` now tells of what is lost later."""
        ...

    async def forget_markers(self, live: Sequence[str]) -> int:
        """Drop the counts of processes that are gone: whose names begin with none of *live*, that no cursor or task rests on."""
        ...

    async def keep_marks(self, task: str) -> None:
        """*task* (a scan) rests on what this process marked so far: ``lost_marks`` tells of it when the process is gone too."""
        ...

    async def drop_marks(self, task: str) -> None:
        """Nothing rests on what any process kept for *task* any more."""
        ...

    async def own(self, task: str, *, owner: str, ttl_seconds: float) -> bool:
        """Take *task* (a source's partition, say) for one process of the pair, or keep it; False while another has it.

        It keeps two from doing the same work; what the work records is safe without it (cursors are compare-and-set).
        """
        ...

    async def disown(self, task: str, *, owner: str) -> None:
        """Give it back; no effect when another has it by now."""
        ...

    async def owners(self, prefix: str) -> dict[str, str]:
        """The tasks that begin with *prefix* and are somebody's, with their owners."""
        ...

    async def waiting(self, shards: Sequence[int] | None = None) -> dict[int, int]:
        """Of *shards* (None: of all) those with dirty keys, and when their first is due: microseconds since 1970 UTC.

        0 where a key is claimed, be it by somebody at work or by one who died.
        """
        ...

    async def due_since_us(self, *, from_us: int, now_us: int) -> int | None:
        """When the first key that came due since *from_us*, and is not claimed, did; None: there is none. As ``claim`` counts."""
        ...

    async def are_parked(self, keys: Sequence[str]) -> list[bool]:
        """Which of *keys* are parked."""
        ...

    async def parked_records(self, shard: int, *, cursor: int) -> tuple[int, list[Parked]]:
        """Some parked keys of one shard, in no order; one may come twice. A record that cannot be read is left out.

        Begin with cursor 0 and go on with the one returned until it is 0.
        """
        ...

    async def put_note(self, name: str, value: bytes) -> None:
        """Small named values of a pair (scan reports, process heartbeats); an empty value removes the note."""
        ...

    async def drop_note(self, name: str, value: bytes) -> bool:
        """Remove a note unless it has another value than *value* by now; whether it was removed."""
        ...

    async def note(self, name: str) -> bytes | None:
        """Read one back."""
        ...

    async def notes(self, prefix: str) -> dict[str, bytes]:
        """All notes whose names begin with *prefix*."""
        ...

    async def tell_pace(self, endpoint: str, process: str, told: bytes) -> None:
        """What *process* says of *endpoint*; empty: nothing any more. All pairs whose state is in the same server hear it.

        It may be forgotten ``progress.PACE_KEPT_SECONDS`` after nobody spoke of *endpoint*. Raises UsageError where it cannot be
        said: no right to it, or something else is in its place.
        """
        ...

    async def paces(self, endpoint: str) -> dict[str, bytes]:
        """What is said of *endpoint*, by process. Raises UsageError as ``tell_pace``."""
        ...

    async def bury(self, letter: DeadLetter) -> None:
        """Keep a record that could not be parsed; the oldest are dropped beyond ``DEAD_LETTERS`` and ``DEAD_LETTER_BYTES``."""
        ...

    async def dead_letters(self) -> list[DeadLetter]:
        """Those kept, oldest first."""
        ...


class Transfers(Protocol):
    """Large transfers under way, so that another process goes on with them, or clears them away (design 8).

    Methods that take a lease raise ``errors.LeaseLost`` when its token is refused.
    """

    async def begin_transfer(self, lease: Lease, record: TransferRecord) -> None:
        """Remember that a transfer began; replaces the one recorded for that key, and its parts."""
        ...

    async def note_part(self, lease: Lease, key: str, number: int, part: str) -> None:
        """Remember that a part arrived; no effect when no transfer is recorded."""
        ...

    async def end_transfer(self, lease: Lease, key: str) -> None:
        """Forget it."""
        ...

    async def transfer(self, key: str) -> TransferRecord | None:
        """The transfer recorded for *key*, with its parts."""
        ...

    async def transfers(self, shard: int) -> list[TransferRecord]:
        """Those of one shard, without their parts."""
        ...


class UploadLog(Protocol):
    """Uploads that a store begins by itself, so that what a killed process left of them is known to be ours."""

    async def begun(self, key: str, upload_id: str) -> None:
        """Before the first part is sent. Raises RetryLater."""
        ...

    async def ended(self, upload_id: str) -> None:
        """It was completed or aborted. Raises RetryLater."""
        ...
