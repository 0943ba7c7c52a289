"""Everything the work on one pair's keys needs, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from federation.backoff import backoff_seconds
from federation.errors import RetryLater
from federation.model import ECHO_SLACK_US, SECOND_US, Base, Change, Foreign, Side
from federation.ports import Clock, ObjectStore, State
from federation.progress import UNION_NOTE, DeleteBudget, Lease, MarkResult
from federation.rules.decision import Rules
from federation.sync.identity import require_side
from federation.sync.transfer import Transfer
from federation.trace import Traces

_COUNT_LIFE_SECONDS = 5.0
_MOST_DOUBT_US = SECOND_US // 10
"""More is left open only until some answers were seen, or by a server whose Date header is late while its clock is right."""
REVERT_WINDOW_SECONDS = 3600.0
_INTEND_TRIES = 10


@dataclass(slots=True)
class _Cached:
    value: int = 0
    until_seconds: float = float("-inf")


@dataclass(slots=True)
class _Shared:
    """A look that many may ask for at once: each is served by one that began after it asked."""

    begun: int = 0
    good: int = 0
    """The last that raised nothing."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def look(self, once: Callable[[], Awaitable[None]]) -> None:
        asked = self.begun
        async with self.lock:
            if self.good > asked:
                return
            self.begun += 1
            await once()
            self.good = self.begun


@lru_cache(maxsize=64)
def _as_measured(rules: Rules, vast_ahead_us: int, uncertainty_us: int, rebuilding: bool) -> Rules:
    """The same for very many keys: clocks are measured anew all the time, and seldom turn out otherwise."""
    return replace(rules, vast_ahead_us=vast_ahead_us, skew_uncertainty_us=uncertainty_us, rebuilding=rebuilding)


@dataclass(frozen=True, slots=True)
class PairContext:
    """One pair at work.

    ``stores``: each behind its gate, which also asks for the last look before a write (``confirmed_by``).
    ``quiet_us``: how long a file-side version must have been unchanged before it is read. ``revert_limit``: how often within
    ``REVERT_WINDOW_SECONDS`` a key is put back against a writer in a read-only zone.
    """

    name: str
    stores: Mapping[Side, ObjectStore]
    state: State
    clock: Clock
    transfer: Transfer
    rules: Rules
    delete_budget: DeleteBudget
    quiet_us: int
    revert_limit: int = 3
    origin_stamps: bool = True
    traces: Traces = field(default_factory=Traces)
    _counted: _Cached = field(default_factory=_Cached)
    _union: _Cached = field(default_factory=_Cached)
    _there: Mapping[Side, _Shared] = field(default_factory=lambda: {side: _Shared() for side in Side})

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As ``State.mark``; where each side's clock stands is told to the state first."""
        self.traces.note(changes)
        for side, store in self.stores.items():
            skew = await store.clock_skew()  # in doubt a change is older, not younger (rule 9)
            self.state.ahead_us[side] = skew.us - min(skew.uncertainty_us, _MOST_DOUBT_US)
        return await self.state.mark(changes)

    async def intend(self, lease: Lease, key: str, intent: Base) -> None:
        """As ``State.intend``; for half a minute repeated while Redis is away: it is of what was done, and nobody else knows."""
        for attempt in range(_INTEND_TRIES):
            try:
                return await self.state.intend(lease, key, intent)
            except RetryLater as error:
                await self.clock.sleep(min(5.0, error.after_seconds or backoff_seconds(attempt, first_seconds=0.1)))
        return await self.state.intend(lease, key, intent)

    async def known_objects(self) -> int:
        """Objects the base knows, read at most every few seconds: it only sizes the delete budget."""
        now = self.clock.monotonic_seconds()
        if now >= self._counted.until_seconds:
            self._counted.value = (await self.state.backlog()).objects
            self._counted.until_seconds = now + _COUNT_LIFE_SECONDS
        return self._counted.value

    async def require_side(self, side: Side) -> None:
        """See, after *side* said that an object is gone, that it is there at all. Raises as ``identity.require_side``.

        Deletes at a time share one read, and none rests on one that began before it asked (docs/adr/0017).
        """
        await self._there[side].look(lambda: require_side(self.stores[side], self.state, self.name))

    async def rebuilding(self) -> bool:
        """Whether the base was lost and no whole scan has run since (union mode), asked at most every few seconds."""
        now = self.clock.monotonic_seconds()
        if now >= self._union.until_seconds:
            self._union.value = int(bool(await self.state.note(UNION_NOTE)))
            self._union.until_seconds = now + _COUNT_LIFE_SECONDS
        return bool(self._union.value)

    async def current_rules(self) -> Rules:
        """The rules with the measured difference of the two services' clocks, and whether the base is being rebuilt."""
        blob, vast = await self.stores[Side.BLOB].clock_skew(), await self.stores[Side.VAST].clock_skew()
        rebuilding = self.rules.foreign is not Foreign.KEEP and await self.rebuilding()
        return _as_measured(self.rules, vast.us - blob.us, vast.uncertainty_us + blob.uncertainty_us, rebuilding)

    async def vast_now_us(self) -> int:
        """The time by VAST's clock."""
        return self.clock.now_us() + (await self.stores[Side.VAST].clock_skew()).us

    async def vast_surely_us(self) -> int:
        """A time that VAST's clock has surely reached, as far as the measurement can tell."""
        skew = await self.stores[Side.VAST].clock_skew()
        return self.clock.now_us() + skew.us - min(skew.uncertainty_us, _MOST_DOUBT_US)

    async def vast_seen_us(self) -> int:
        """VAST's time as of which what is read from now on is known, less the slack that an echo of our own write is granted.

        A version that somebody else wrote has no echo: the first change after the read must not be taken for one (ADR 0001).
        """
        return await self.vast_surely_us() - ECHO_SLACK_US
