"""What the in-memory state knows of one dirty key."""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.model import Change, Hint, HintEntry, Side, Source, Stamp

ENTRIES_A_SIDE = 4
"""Hinted versions kept per side; more become one entry of unknown version, which is never taken for an echo."""


@dataclass(slots=True)
class Dirty:
    """As ``RedisState`` keeps it in its hint."""

    generation: int = 0
    entries: dict[Side, list[HintEntry]] = field(default_factory=lambda: {side: [] for side in Side})
    since_us: dict[Side, int] = field(default_factory=dict)
    newer_us: dict[Side, int] = field(default_factory=dict)
    """As ``since_us``, of what was marked after the last claim."""
    sources: set[Source] = field(default_factory=set)
    due_us: int | None = None
    """None while claimed."""
    claimed: int = 0
    """The generation that was handed out; 0 while nobody works on it."""
    attempts: int = 0
    last_error: str = ""

    def hint(self, key: str) -> Hint:
        """What a claim of *key* hands out."""
        return Hint(
            key=key,
            generation=self.generation,
            blob=tuple(self.entries[Side.BLOB]),
            vast=tuple(self.entries[Side.VAST]),
            sources=tuple(one for one in Source if one in self.sources),
            attempts=self.attempts,
            last_error=self.last_error,
        )

    def add(self, change: Change) -> None:
        """Know of *change* too."""
        entries = self.entries[change.side]
        at = change.at
        for index, entry in enumerate(entries):
            if (entry.etag, entry.deleted) == (change.etag, change.deleted):
                at = _of_one_version(entry.at, at)
                del entries[index]
                break
        entries.append(HintEntry(change.etag, change.deleted, at, self.generation))
        if len(entries) > ENTRIES_A_SIDE:
            times = [entry.at for entry in entries if entry.at is not None]
            at = min(times, key=lambda stamp: stamp.at_us, default=None)
            self.entries[change.side] = [HintEntry(None, deleted=False, at=at, generation=self.generation)]


def _of_one_version(one: Stamp | None, two: Stamp | None) -> Stamp | None:
    """The time to keep: the later, since it decides what can be an echo; of two that may be one moment the more precise."""
    if one is None or two is None:
        return one or two
    if abs(one.at_us - two.at_us) < max(one.precision_us, two.precision_us) and one.precision_us != two.precision_us:
        return one if one.precision_us < two.precision_us else two
    return one if one.at_us > two.at_us else two
