"""The gates of one process, one for each endpoint, and what processes tell each other of them (design 8, docs/adr/0016)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import msgspec
import structlog

from federation.backoff import LONGEST_BACKOFF_SECONDS
from federation.errors import UsageError
from federation.model import Side
from federation.ports import Clock, State
from federation.sync.pacing import Gate, PaceLimits

_log = structlog.get_logger(__name__)
_FRESH_US = 10_000_000
_FORGOTTEN_US = 600_000_000
_LONGEST_US = int(LONGEST_BACKOFF_SECONDS * 1_000_000)


class GateBook:
    """Hands out gates: pairs with the same endpoint share one."""

    def __init__(self, clock: Clock, limits: PaceLimits) -> None:
        self._clock = clock
        self._limits = limits
        self._gates: dict[str, Gate] = {}

    def gate(self, side: Side, endpoint: str) -> Gate:
        """The gate in front of *endpoint*, an account's or a server's URL."""
        name = f"{side} {endpoint.rstrip('/').lower()}"
        return self._gates.setdefault(name, Gate(side, self._clock, self._limits, endpoint=name))


class _Told(msgspec.Struct, frozen=True):
    """What one process says of an endpoint: when it said it, and until when that wants rest (wall clock, 0: it does not)."""

    at_us: int
    closed_until_us: int


class PaceShare:
    """What one process tells the others, of whatever pair, and takes over: rest that an endpoint asked for, and how many use it.

    A notice, not a lock: the rates are divided by the processes seen, and each still finds out for itself.
    """

    def __init__(self, state: State, gates: Mapping[Side, Gate], clock: Clock, process: str) -> None:
        """*state*: of any pair in the Redis that the processes share."""
        self._state = state
        self._gates = tuple(gates.values())
        self._clock = clock
        self._process = process
        self._silent_until_us = 0
        self._unread: dict[tuple[str, str], tuple[bytes, int]] = {}
        """By endpoint and process what cannot be decoded, and since when it is said."""

    async def exchange(self) -> None:
        """Tell and hear, every few seconds. Raises RetryLater when the state is away.

        A Redis user who may touch the pair's own keys only works on alone, and tries again now and then; as where something else
        is in the place of the notices.
        """
        if self._clock.now_us() < self._silent_until_us:
            return
        try:
            for gate in self._gates:
                await self._exchange(gate, self._clock.now_us())
        except UsageError as error:
            self._silent_until_us = self._clock.now_us() + _FORGOTTEN_US
            _log.warning("rates and rest are not shared with other processes", needed="hashes ~fed:{endpoint/*", error=str(error))
            for gate in self._gates:
                gate.sharers = 1

    async def leave(self) -> None:
        """This process ends, or this pair does: another pair of it says so again at its next exchange."""
        for gate in self._gates:
            with contextlib.suppress(UsageError):
                await self._state.tell_pace(gate.endpoint, self._process, b"")

    async def _exchange(self, gate: Gate, now_us: int) -> None:
        wait = self._closed(gate)
        mine = _Told(now_us, now_us + int(wait * 1_000_000) if wait else 0)
        await self._state.tell_pace(gate.endpoint, self._process, msgspec.json.encode(mine))
        others = await self._others(gate.endpoint, now_us)
        gate.sharers = 1 + len(others)
        # Bounded before it is divided: it may be any number.
        latest_us = min(max((told.closed_until_us for told in others), default=0), now_us + _LONGEST_US)
        wait = (max(latest_us, now_us) - now_us) / 1_000_000
        if wait > self._closed(gate):
            gate.close_until(self._clock.monotonic_seconds() + wait)

    def _closed(self, gate: Gate) -> float:
        return max(0.0, gate.closed_until_seconds - self._clock.monotonic_seconds())

    async def _others(self, endpoint: str, now_us: int) -> list[_Told]:
        found = []
        for process, said in (await self._state.paces(endpoint)).items():
            told = self._heard((endpoint, process), said, now_us)
            if abs(now_us - told.at_us) < _FRESH_US:
                found += [told] if process != self._process else []
            elif now_us - told.at_us > _FORGOTTEN_US:
                await self._state.tell_pace(endpoint, process, b"")
                self._unread.pop((endpoint, process), None)
        return found

    def _heard(self, who: tuple[str, str], said: bytes, now_us: int) -> _Told:
        try:
            return msgspec.json.decode(said, type=_Told)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Of another version of fedplane, which says it in other words: that it is there, while it says something new.
            before, since_us = self._unread.get(who, (b"", 0))
            if before != said:
                since_us = now_us
                self._unread[who] = said, since_us
            return _Told(since_us, 0)
