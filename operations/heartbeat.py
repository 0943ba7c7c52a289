"""What a running process tells about itself in the pair's state, so that ``status`` can be asked from anywhere."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from federation.model import Side
from federation.ports import Clock, ObjectStore, State
from federation.sync.pacing import Gate

PREFIX = "process:"
EVERY_SECONDS = 2.0
FRESH_SECONDS = 10.0
"""A process that said nothing for so long is taken for gone, unless it says that it speaks less often."""
_FORGET_US = 24 * 3600 * 1_000_000


class SideHealth(msgspec.Struct, kw_only=True):
    """How one side answers this process."""

    answers: bool
    failing_since_us: int | None = None
    last_error: str = ""
    throttles: int = 0
    clock_ahead_us: int | None = None
    """None: not measured yet."""
    race_windows: int = 0
    left_alone: bool = False
    """Its breaker is open, or lets one probe through."""


class Heartbeat(msgspec.Struct, kw_only=True):
    """One process's word on one pair. Times in microseconds since 1970 UTC."""

    process: str
    at_us: int
    started_us: int
    ready: bool
    """Both sides were checked and work has begun."""
    sides: dict[Side, SideHealth]
    sources: dict[str, dict[str, Any]]
    scan: dict[str, Any]
    worker: dict[str, Any]
    in_flight: int = 0
    shards: int = 0
    rss_bytes: int = 0
    cpu_seconds: float = 0.0
    fresh_seconds: float = FRESH_SECONDS
    """How long this word holds: longer where a process only speaks while it is invoked."""

    def fresh(self, now_us: int) -> bool:
        """Whether the process may be taken for alive."""
        return now_us - self.at_us < self.fresh_seconds * 1_000_000


async def side_health(store: ObjectStore, gate: Gate, clock: Clock, *, silent_seconds: float) -> SideHealth:
    """How *store* answers; one that nobody asked for *silent_seconds* does not count as answering (rule 9)."""
    silent = clock.monotonic_seconds() - gate.answered_seconds
    skew = await store.clock_skew()
    return SideHealth(
        answers=gate.failing_since_us is None and silent < silent_seconds,
        failing_since_us=gate.failing_since_us,
        last_error=gate.last_error if gate.failing_since_us is not None else "",
        throttles=gate.throttles,
        clock_ahead_us=skew.us if skew.measured else None,
        race_windows=store.race_windows,
        left_alone=gate.tripped,
    )


def rss_bytes() -> int:
    """Resident memory of this process now; its peak where /proc is not there."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()


def cpu_seconds() -> float:
    """Processor time this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round(usage.ru_utime + usage.ru_stime, 3)


async def say(state: State, heartbeat: Heartbeat) -> None:
    """Write it down."""
    await state.put_note(PREFIX + heartbeat.process, msgspec.json.encode(heartbeat))


async def heartbeats(state: State) -> list[Heartbeat]:
    """All processes that ever spoke and did not say good-bye, the latest first."""
    notes = await state.notes(PREFIX)
    beats = [msgspec.json.decode(value, type=Heartbeat) for value in notes.values()]
    return sorted(beats, key=lambda beat: beat.at_us, reverse=True)


def clocks_ahead_us(beats: Sequence[Heartbeat], side: Side, now_us: int) -> list[int]:
    """How far *side*'s clock is ahead of ours: what each process measured that lives, else those that did; none: nobody knows."""
    for alive in (True, False):
        told = [beat.sides[side].clock_ahead_us for beat in beats if side in beat.sides and beat.fresh(now_us) is alive]
        if known := [one for one in told if one is not None]:
            return known
    return []


async def tell_clocks(state: State, now_us: int) -> None:
    """Before a command marks: how far the sides' clocks are ahead, by what processes said; in doubt what is marked is older."""
    beats = await heartbeats(state)
    state.ahead_us.update({side: min(clocks_ahead_us(beats, side, now_us), default=0) for side in Side})


async def forget_old(state: State, now_us: int) -> None:
    """Drop the notes of processes that were killed long ago."""
    for beat in await heartbeats(state):
        if now_us - beat.at_us > _FORGET_US:
            await state.put_note(PREFIX + beat.process, b"")


async def leave(state: State, process: str) -> None:
    """Say good-bye."""
    await state.put_note(PREFIX + process, b"")
