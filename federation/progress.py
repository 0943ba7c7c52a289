"""Values of a pair's progress: what ``ports.State`` keeps and hands out."""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_hex

from federation.model import Base, Hint, Metadata, Side, Stamp


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one shard until it expires. Scripts compare ``token``; ``fence`` is for people and logs."""

    shard: int
    token: str
    fence: int


@dataclass(frozen=True, slots=True)
class Held:
    """A delete that waits for a person (rule 8). ``verdict`` is "", "released" or "rejected"."""

    key: str
    delete_on: Side
    reason: str
    since_us: int
    verdict: str = ""
    deleted: Stamp | None = None
    """When the other side's object was deleted, where an event told: the hint that did is gone when a person has decided."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One dirty key handed to a worker, with all the state it needs."""

    hint: Hint
    base: Base | None
    held: Held | None = None
    intent: Base | None = None
    """What a worker that did not live to settle was about to make true (``State.intend``)."""


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """A large transfer under way. ``side`` is its destination, ``upload_id`` what that knows it by.

    ``fingerprint`` stands for everything that must be the same for another process to go on with it. ``parts``: by number, the
    MD5 of the part's bytes in hex, a space, and the destination's token of the part.
    """

    key: str
    side: Side
    upload_id: str
    fingerprint: str
    begun_us: int
    parts: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MarkResult:
    """Counts of one ``mark``: keys made or kept dirty, and echoes dropped (ETag equal to the base, or delete of a tombstone)."""

    marked: int
    echoes: int


@dataclass(frozen=True, slots=True)
class Parked:
    """A key that needs a person or a change."""

    key: str
    reason: str
    detail: str
    since_us: int


@dataclass(frozen=True, slots=True)
class ConflictRecord:
    """One conflict: who won, why, and where the loser can be read back.

    ``conflict_id`` is derived from key, losing side and losing ETag, so a repeat after a crash is the same record.
    ``preserved_as`` is the pair-relative key of the copy on ``loser_side``, or of the empty pointer to the version that
    ``preserved_version_id`` names; empty when content was equal and only metadata lost (then ``loser_metadata`` holds it).
    """

    conflict_id: str
    key: str
    winner_side: Side
    loser_side: Side
    reason: str
    at_us: int
    winner_etag: str
    loser_etag: str
    winner_written_us: int
    loser_written_us: int
    loser_size_bytes: int
    preserved_as: str
    preserved_version_id: str = ""
    loser_metadata: Metadata | None = None


@dataclass(frozen=True, slots=True)
class HaltRecord:
    """A named state in which the pair does nothing. ``self_lifting`` halts end when the cause is seen to be gone."""

    name: str
    detail: str
    since_us: int
    self_lifting: bool


@dataclass(frozen=True, slots=True)
class Cursor:
    """A source's durable position. ``options_digest`` guards against reading it under other options."""

    position: dict[str, int]
    options_digest: str
    updated_us: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record of a source that could not be parsed, kept whole for a person."""

    source: str
    reason: str
    raw: bytes
    at_us: int
    topic: str = ""
    """Of a Kafka record, as ``partition`` and ``offset``; elsewhere empty and -1."""
    partition: int = -1
    offset: int = -1


DEAD_LETTERS = 10_000
"""How many are kept of a pair."""

DEAD_LETTER_BYTES = 64 * 1024 * 1024
"""And how much of them, as packed; beyond either the oldest are dropped, and counted."""


@dataclass(frozen=True, slots=True)
class DeadTally:
    """Dead letters kept, and dropped since the pair began; ``newest_us`` by source: when the last one was buried."""

    kept: int = 0
    kept_bytes: int = 0
    dropped: int = 0
    newest_us: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Backlog:
    """Counts and ages of one pair at one moment. Ages are of the oldest unapplied change; None when there is none."""

    dirty: int
    dirty_by_side: dict[Side, int]
    oldest_us_by_side: dict[Side, int | None]
    parked: int
    held: int
    conflicts: int
    objects: int
    """Keys whose base says both sides hold them."""
    dead: DeadTally = field(default_factory=DeadTally)

    def waiting_since_us(self, side: Side, ahead_us: int) -> int | None:
        """Since when the oldest change of *side* waits, by our clock, of which the side's is *ahead_us* ahead."""
        at_us = self.oldest_us_by_side[side]
        return None if at_us is None else at_us - ahead_us


OPTIONS_NOTE = "pair:options"
"""Note of what a pair's base rests on: places and name mapping (``rules.guards.changed_options``)."""

UNION_NOTE = "union"
"""Note that is there while the base is not yet rebuilt after it was found empty (design 4.5); another value each time."""


def union_value() -> bytes:
    """Of a base that was found empty just now."""
    return token_hex(8).encode()


GAP_NOTE = "gap"
"""Note, while marks are known to be lost: the time from which on a whole scan must begin to make up for it, microseconds."""


@dataclass(frozen=True, slots=True)
class DeleteTally:
    """Deletes done in the budget's window and deletes held, and how many of either were halves of renames (docs/adr/0007)."""

    done: int = 0
    done_renames: int = 0
    held: int = 0
    held_renames: int = 0


SCAN_BEHIND_US = 3_600_000_000
"""So much earlier counts as due what only a scan found: a backlog of it is never newer than a change that was announced."""

PACE_KEPT_SECONDS = 1_200
"""How long what is said of an endpoint outlives the last who said something."""
RENAME_WINDOW_SECONDS = 600
"""A delete, and an equal content created under another key in this window of time or the one before or after, are a rename."""

RENAMES_KEPT = 10_000
"""How many renames are remembered, to be told of; beyond that their number is a lower bound."""


@dataclass(frozen=True, slots=True)
class DeleteBudget:
    """How many deletes may be carried out in one window without a person; see ``rules.guards.delete_limit``."""

    count: int
    share: float
    window_seconds: float
