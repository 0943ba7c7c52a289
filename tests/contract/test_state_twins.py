"""The state's twin and Redis, side by side: long random sequences of calls, every answer compared.

The simulation runs on the twin; what it shows of the engine holds as far as the two are one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from federation.errors import LeaseLost
from federation.model import Base, Change, Side, Source, Stamp, StampOrigin
from federation.ports import State
from federation.progress import Claim, ConflictRecord, Cursor, DeleteBudget, HaltRecord, Held, Lease
from tests.contract.state_support import TestClock, states

KEYS = ("a", "b/c", "\u00e9")
MD5S = ("0cc175b9c0f1b6a831c399e269772661", "92eb5ffee6ae2fec3ad71c777531578f")
STEPS = 250
TTL_SECONDS = 3600.0
BUDGET = DeleteBudget(count=3, share=1.0, window_seconds=60)


class Twins:
    """Both kinds of state and what each handed out."""

    def __init__(self, kinds: dict[str, State], clock: TestClock, seed: int) -> None:
        self.kinds = kinds
        self.clock = clock
        self.rng = Random(seed)  # noqa: S311 - repeatable chance is the point
        self.leases: dict[str, Lease | None] = dict.fromkeys(kinds)
        self.claims: dict[str, list[Claim]] = {kind: [] for kind in kinds}
        self.cursors: dict[str, Cursor | None] = dict.fromkeys(kinds)

    async def both(self, what: str, call: Callable[[str, State], Awaitable[Any]]) -> object:
        """The same call on either; the same answer, or the same refusal."""
        answers = {}
        for kind, state in self.kinds.items():
            try:
                answers[kind] = await call(kind, state)
            except LeaseLost:
                answers[kind] = "lease lost"
        one, two = answers.values()
        assert one == two, (what, answers)
        return one

    async def step(self) -> None:
        """One call drawn from the seed, then everything that can be asked."""
        step = self.rng.choice(
            (self.mark, self.mark, self.mark, self.take, self.claim, self.end, self.end, self.end, self.person, self.records)
        )
        await step()
        self.clock.us += self.rng.choice((0, 1, 400_000, 5_000_000))
        await self.look()

    async def mark(self) -> None:
        """Some changes of any source."""
        changes = [self.change() for _ in range(self.rng.randint(1, 6))]
        await self.both(f"mark {changes}", lambda _, state: state.mark(changes))

    def change(self) -> Change:
        """Any."""
        rng, side = self.rng, self.rng.choice(list(Side))
        precision = rng.choice((1, 1_000_000))
        origin = StampOrigin.EVENT if precision == 1 else StampOrigin.LAST_MODIFIED
        at = rng.choice((None, Stamp(self.clock.us - rng.randint(0, 3_000_000), precision, origin)))
        deleted = rng.random() < 0.2
        etag = None if deleted else rng.choice((None, "0x8DC1", "0x8DC2", *MD5S, "x-2"))
        later = rng.choice((0, 0, self.clock.us + 2_000_000))
        return Change(rng.choice(KEYS), side, rng.choice(list(Source)), etag=etag, deleted=deleted, at=at, not_before_us=later)

    def base(self) -> Base | None:
        """Any."""
        rng = self.rng
        if rng.random() < 0.1:
            return None
        if rng.random() < 0.2:
            return Base(deleted=True, written=Stamp(self.clock.us // 1000 * 1000, 1, StampOrigin.SCAN))
        return Base(
            blob_etag=rng.choice(("", "0x8DC1", "0x8DC2")),
            vast_etag=rng.choice((*MD5S, "x-2")),
            md5=rng.choice((None, *MD5S)),
            metadata_digest=b"12345678",
            written=Stamp(self.clock.us // 1_000_000 * 1_000_000),
            size_bytes=rng.randint(0, 9),
            lossy=rng.random() < 0.2,
            vast_as_of_us=self.clock.us // 1000 * 1000,
        )

    async def take(self) -> None:
        """Take the shard, or give it back."""
        give_back = self.rng.random() < 0.3

        async def call(kind: str, state: State) -> object:
            lease = self.leases[kind]
            if lease is not None and give_back:
                await state.release(lease)
                self.leases[kind], self.claims[kind] = None, []
                return "given back"
            taken = await state.acquire(0, owner="w", ttl_seconds=TTL_SECONDS)
            if taken is not None:
                self.leases[kind], self.claims[kind] = taken, []
            return taken and taken.fence

        await self.both("take", call)

    async def claim(self) -> None:
        """Claim some keys, or take up those nobody works on."""
        limit, reclaim = self.rng.randint(1, 3), self.rng.random() < 0.15

        async def call(kind: str, state: State) -> object:
            lease = self.leases[kind]
            if lease is None:
                return None
            if reclaim:
                at_work = [claim.hint.key for claim in self.claims[kind][:1]]
                return await state.reclaim(lease, at_work=at_work, now_us=self.clock.us)
            claims = await state.claim(lease, limit=limit, now_us=self.clock.us)
            self.claims[kind] += claims
            return [dataclasses.replace(claim) for claim in claims]

        await self.both("claim", call)

    async def end(self) -> None:
        """End the work on a claimed key in one of the ways there are."""
        way, base, wrong = (
            self.rng.choice(("settle", "settle", "defer", "park", "hold", "intend")),
            self.base(),
            self.rng.random() < 0.1,
        )
        count = self.rng.random() < 0.5

        async def call(kind: str, state: State) -> object:
            lease = self.leases[kind]
            if lease is None or not self.claims[kind]:
                return None
            if wrong:
                lease = dataclasses.replace(lease, token="w:somebody-else")
            hint = self.claims[kind][0].hint
            key, generation = hint.key, hint.generation
            if way == "intend":
                await state.intend(lease, key, base or Base(blob_etag="0x8DC1"))
                return None
            result: object = None
            if way == "settle":
                result = await state.settle(lease, key, generation, base)
            elif way == "defer":
                later = self.clock.us + 1_000_000
                await state.defer(lease, key, generation, not_before_us=later, error="e", count_attempt=count)
            elif way == "park":
                await state.park(lease, key, generation, reason="r", detail="d", now_us=self.clock.us)
            else:
                await state.hold(lease, key, generation, Held(key, Side.VAST, "over", self.clock.us))
            del self.claims[kind][0]
            return result

        await self.both(way, call)

    async def person(self) -> None:
        """What an operator does."""
        keys, verdict = list(self.rng.sample(KEYS, 2)), self.rng.choice(("released", "rejected"))
        if self.rng.random() < 0.5:
            await self.both("unpark", lambda _, state: state.unpark(keys, now_us=self.clock.us))
        else:
            await self.both("judge", lambda _, state: state.judge(keys, verdict=verdict, now_us=self.clock.us))

    async def records(self) -> None:
        """Budgets, conflicts, halts, cursors and notes."""
        rng, now = self.rng, self.clock.us
        number, objects = str(rng.randint(1, 5)), rng.randint(0, 5)
        await self.both("reserve", lambda _, state: state.reserve_delete(number, BUDGET, objects=objects, now_us=now))
        record = ConflictRecord(number, "k", Side.BLOB, Side.VAST, "tie", now, "1", "2", 1, 2, 3, "kept")
        await self.both("conflict", lambda _, state: state.record_conflict(record))
        if rng.random() < 0.3:
            await self.both("drop", lambda _, state: state.drop_conflict(number))
        halt = HaltRecord(number, "d", now, self_lifting=rng.random() < 0.5)
        await self.both("halt", lambda _, state: state.halt(halt))
        if rng.random() < 0.5:
            await self.both("lift", lambda _, state: state.lift(number))
        await self.both("note", lambda _, state: state.put_note(f"n{number}", number.encode() if objects else b""))
        cursor = Cursor({"0": rng.randint(0, 9)}, "d", now)
        stale = rng.random() < 0.2

        async def move(kind: str, state: State) -> bool:
            moved = await state.move_cursor("s", None if stale else self.cursors[kind], cursor)
            if moved:
                self.cursors[kind] = cursor
            return moved

        await self.both("cursor", move)

    async def look(self) -> None:
        """Everything that can be asked."""
        await self.both("backlog", lambda _, state: state.backlog())
        await self.both("bases", lambda _, state: state.bases(KEYS))
        await self.both("dirty", lambda _, state: state.are_dirty(KEYS))
        for key in KEYS:
            await self.both(f"explain {key}", lambda _, state, key=key: state.explain(key))  # type: ignore[misc]
        for what in ("held", "conflicts", "halts"):
            await self.both(what, lambda _, state, what=what: getattr(state, what)())  # type: ignore[misc]


@pytest.fixture
async def kinds(clock: TestClock, tmp_path: Path) -> AsyncIterator[dict[str, State]]:
    """Both, empty, with one shard: its marks are numbered alike."""
    async for memory in states("memory", clock, tmp_path, shards=1):
        async for redis in states("redis", clock, tmp_path, shards=1):
            both = {"memory": memory, "redis": redis}
            for state in both.values():
                await state.open()
            yield both


@pytest.mark.parametrize("seed", range(8))
async def test_the_twin_and_redis_give_the_same_answers(kinds: dict[str, State], clock: TestClock, seed: int) -> None:
    """Whatever is marked, claimed, settled, deferred, parked, held or recorded, in any order."""
    twins = Twins(kinds, clock, seed)
    for _ in range(STEPS):
        await twins.step()
    assert (await kinds["redis"].backlog()).objects >= 0
