"""The state as one server, reached by every process through its own slow and failing connection."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from federation.errors import RetryLater
from federation.model import Change, Side
from federation.ports import Clock
from federation.progress import Lease
from federation.state.memory_state import MemoryState
from tests.simulation.channels import slowly
from tests.simulation.script import Rates

Heard = Callable[[Change, bool, bool], None]
Observer = Callable[[str, tuple[Any, ...], dict[str, Any], Any], None]


class StateBox:
    """Redis, as the proven twin of ``RedisState``; its contents can go back in time or be lost."""

    def __init__(self, shards: int, heard: Heard, stolen: Callable[[str], None], lost: Callable[[set[str]], None]) -> None:
        self._shards = shards
        self._heard = heard
        self._stolen = stolen
        self._lost = lost
        self.away_until = 0.0
        self.inner = self._fresh()
        self._kept: dict[str, Any] | None = None
        self.losses = 0

    def _fresh(self) -> _Observed:
        # One marker for all processes: what a failover took of anybody's marks is noticed, as each process notices its own.
        return _Observed("sim", shards=self._shards, clock=_NoClock(), marker="sim", heard=self._heard, stolen=self._stolen)

    def flush(self) -> None:
        """Everything is gone."""
        before = dict(vars(self.inner))
        self.inner = self._fresh()
        self.inner.remember(before["_made"])
        self._tell(before)

    def keep(self) -> None:
        """What a replica has now."""
        self._kept = copy.deepcopy(
            {name: value for name, value in vars(self.inner).items() if name not in {"_clock", "_heard", "_stolen"}}
        )

    def fail_over(self) -> None:
        """The replica takes over: the tail is lost."""
        if self._kept is None:
            return
        before = dict(vars(self.inner))
        vars(self.inner).update(self._kept)
        self._kept = None
        self._tell(before)

    def _tell(self, before: dict[str, Any]) -> None:
        """Say which keys the loss concerns: those of which something else is known now, or that were at work then."""
        self.losses += 1
        after = vars(self.inner)
        keys = set(before["_dirty"]) | set(after["_dirty"])
        for name in ("_base", "_intents", "_parked", "_held"):
            old, new = before[name], after[name]
            keys |= {key for key in {*old, *new} if old.get(key) != new.get(key)}
        keys |= {record.key for name, record in before["_conflicts"].items() if name not in after["_conflicts"]}
        self._lost(keys)


class _Observed(MemoryState):
    """Tells of each change that was marked: whether it was taken or dropped as an echo, and whether its key was dirty before."""

    def __init__(self, pair: str, *, shards: int, clock: Clock, marker: str, heard: Heard, stolen: Callable[[str], None]) -> None:
        super().__init__(pair, shards=shards, clock=clock, marker=marker)
        self._heard = heard
        self._stolen = stolen

    def remember(self, made: Counter[int]) -> None:
        """What processes know of their calls outlives what the state knows."""
        self._made.update(made)

    async def acquire(self, shard: int, *, owner: str, ttl_seconds: float) -> Lease | None:
        """As the twin; a lease is never taken from one who holds it."""
        current = self._owners.get(shard)
        held = current is not None and current.until_seconds > self._clock.monotonic_seconds()
        taken = await super().acquire(shard, owner=owner, ttl_seconds=ttl_seconds)
        if held and taken is not None:
            self._stolen(f"the lease of shard {shard} was taken from its holder")
        return taken

    def _mark(self, change: Change) -> bool:
        dirty = change.key in self._dirty
        taken = super()._mark(change)
        self._heard(change, taken, dirty)
        return taken


class _NoClock:
    """Replaced by the clock of whoever calls."""

    def now_us(self) -> int:
        raise AssertionError("a state call without a caller's clock")

    def monotonic_seconds(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"the state never sleeps, not {seconds} s")


class StateEnd:
    """``ports.State`` of one process. *observe* sees every call that took effect, with what it returned."""

    def __init__(
        self,
        box: StateBox,
        clock: Clock,
        rng: Random,
        rates: Callable[[], Rates],
        count: Callable[[str], None],
        observe: Observer,
    ) -> None:
        self._box = box
        self._clock = clock
        self._rng = rng
        self._rates = rates
        self._count = count
        self._observe = observe
        self.shards = box.inner.shards
        self.ahead_us = dict.fromkeys(Side, 0)

    def shard_of(self, key: str) -> int:
        """As in the port."""
        return self._box.inner.shard_of(key)

    async def close(self) -> None:
        """Nothing to release."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any, **named: Any) -> Any:
            return await self._call(name, arguments, named)

        return call

    async def _call(self, name: str, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        rates, rng = self._rates(), self._rng
        await asyncio.sleep(rng.uniform(0, 0.005))
        await slowly(rng, rates.slow_state, lambda: self._count("state call slow"))
        if asyncio.get_running_loop().time() < self._box.away_until:
            self._count("state away")
            raise RetryLater("Redis away", reason="redis_unavailable")
        if rng.random() < rates.state_before:
            self._count("state call failed")
            raise RetryLater("Redis did not answer", reason="redis_unavailable")
        inner = self._box.inner
        inner._clock, inner.ahead_us = self._clock, self.ahead_us
        result = await getattr(inner, name)(*arguments, **named)
        self._observe(name, tuple(arguments), named, result)
        await asyncio.sleep(rng.uniform(0, 0.005))
        await slowly(rng, rates.slow_state, lambda: self._count("state call slow"))
        if rng.random() < rates.state_after:
            self._count("state answer lost")
            raise RetryLater("the answer of Redis was lost", reason="redis_unavailable")
        return result
