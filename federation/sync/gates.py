"""The gates of one process, one for each endpoint, and what processes tell each other of them (design 8)."""

from __future__ import annotations

import msgspec

from federation.backoff import LONGEST_BACKOFF_SECONDS
from federation.model import Side
from federation.ports import Clock, State
from federation.sync.pacing import Gate, PaceLimits

NOTE = "pace:"
"""Prefix of the notes in which each process of a pair tells what it found."""
_FRESH_US = 10_000_000
_FORGOTTEN_US = 600_000_000


class GateBook:
    """Hands out gates: pairs with the same endpoint share one."""

    def __init__(self, clock: Clock, limits: PaceLimits) -> None:
        self._clock = clock
        self._limits = limits
        self._gates: dict[tuple[Side, str], Gate] = {}

    def gate(self, side: Side, endpoint: str) -> Gate:
        """The gate in front of *endpoint*."""
        return self._gates.setdefault((side, endpoint.rstrip("/").lower()), Gate(side, self._clock, self._limits))


class _Told(msgspec.Struct, frozen=True):
    """What one process says: when it said it, and until when each side wants rest (wall clock, 0: it does not)."""

    at_us: int
    closed_until_us: dict[Side, int]


class PaceShare:
    """What one process tells the others of its pair, and takes over from them: rest that a side asked for, and how many they are.

    A notice, not a lock: the rates are divided by the processes seen, and each still finds out for itself.
    """

    def __init__(self, state: State, gates: dict[Side, Gate], clock: Clock, process: str) -> None:
        self._state = state
        self._gates = gates
        self._clock = clock
        self._name = f"{NOTE}{process}"

    async def exchange(self) -> None:
        """Tell and hear, every few seconds. Raises RetryLater when the state is away."""
        now_us = self._clock.now_us()
        mine = {side: now_us + int(wait * 1_000_000) if (wait := self._closed(side)) else 0 for side in self._gates}
        await self._state.put_note(self._name, msgspec.json.encode(_Told(now_us, mine)))
        others = await self._others(now_us)
        for side, gate in self._gates.items():
            gate.sharers = 1 + len(others)
            wait = (max((told.closed_until_us.get(side, 0) for told in others), default=0) - now_us) / 1_000_000
            if wait > self._closed(side):
                gate.close_until(self._clock.monotonic_seconds() + min(wait, LONGEST_BACKOFF_SECONDS))

    async def leave(self) -> None:
        """This process ends."""
        await self._state.put_note(self._name, b"")

    def _closed(self, side: Side) -> float:
        gate = self._gates[side]
        return max(0.0, gate.closed_until_seconds - self._clock.monotonic_seconds())

    async def _others(self, now_us: int) -> list[_Told]:
        found = []
        for name, note in (await self._state.notes(NOTE)).items():
            told = msgspec.json.decode(note, type=_Told)
            if abs(now_us - told.at_us) < _FRESH_US:
                found += [told] if name != self._name else []
            elif now_us - told.at_us > _FORGOTTEN_US:
                await self._state.put_note(name, b"")
        return found
