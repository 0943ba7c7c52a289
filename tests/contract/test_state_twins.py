"""The state's twin and Redis, side by side: long random sequences of calls, every answer compared.

The simulation runs on the twin; what it shows of the engine holds as far as the two are one.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from federation.errors import LeaseLost
from federation.model import Base, Change, Side, Source, Stamp, StampOrigin
from federation.ports import State
from federation.progress import SCAN_BEHIND_US, Claim, ConflictRecord, Cursor, DeleteBudget, HaltRecord, Held, Lease
from tests.contract.state_support import TestClock, states

KEYS = ("a", "b/c", "d", "e+f", "g", "\u00e9")
SHARDS = 3
MD5S = ("0cc175b9c0f1b6a831c399e269772661", "92eb5ffee6ae2fec3ad71c777531578f")
STEPS = 250
TTL_SECONDS = 3600.0
SHORT_SECONDS = 0.001
BUDGET = DeleteBudget(count=3, share=1.0, window_seconds=60)


async def _bases(_: str, state: State) -> list[Base | None]:
    return list(await state.bases(KEYS))


class Twins:
    """Both kinds of state and what each handed out."""

    def __init__(self, kinds: dict[str, State], clock: TestClock, seed: int) -> None:
        self.kinds = kinds
        self.clock = clock
        self.rng = Random(seed)  # noqa: S311 - repeatable chance is the point
        self.leases: dict[str, dict[int, Lease]] = {kind: {} for kind in kinds}
        self.lost: dict[str, list[Lease]] = {kind: [] for kind in kinds}
        """Leases that ended, oldest first."""
        self.claims: dict[str, dict[int, list[Claim]]] = {kind: {} for kind in kinds}
        self.ended: dict[str, tuple[Lease, Claim] | None] = dict.fromkeys(kinds)
        """The claim that was ended last, and under which lease."""
        self.cursors: dict[str, Cursor | None] = dict.fromkeys(kinds)
        for state in kinds.values():
            state.ahead_us.update({Side.BLOB: 300_000 * (seed % 3), Side.VAST: -30_000_000 * (seed % 2)})

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
        often = (self.mark, self.take, self.claim, self.claim, self.end, self.end, self.end)
        seldom = (self.expire, self.reclaim, self.person, self.records, self.budgets, self.renames, self.forget)
        await self.rng.choice(often + often + seldom)()
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
        """Take a shard, or give it back."""
        shard, give_back = self.rng.randrange(SHARDS), self.rng.random() < 0.2

        async def call(kind: str, state: State) -> object:
            lease = self.leases[kind].get(shard)
            if lease is not None and give_back:
                await state.release(lease)
                self.forfeit(kind, shard)
                return "given back"
            return await self.acquire(kind, state, shard)

        await self.both("take", call)

    async def acquire(self, kind: str, state: State, shard: int) -> int | None:
        """The fencing number; None when the shard is taken."""
        taken = await state.acquire(shard, owner="w", ttl_seconds=TTL_SECONDS)
        if taken is None:
            return None
        self.forfeit(kind, shard)
        self.leases[kind][shard] = taken
        return taken.fence

    def forfeit(self, kind: str, shard: int) -> None:
        """The lease of *shard*, if there is one, is no longer held."""
        self.claims[kind].pop(shard, None)
        if shard in self.leases[kind]:
            self.lost[kind].append(self.leases[kind].pop(shard))

    async def expire(self) -> None:
        """A lease ends by itself, and somebody else takes the shard; what was claimed under it is due again."""
        shard = self.rng.randrange(SHARDS)

        async def call(kind: str, state: State) -> object:
            lease = self.leases[kind].get(shard)
            if lease is None or not await state.renew(lease, ttl_seconds=SHORT_SECONDS):
                return None
            while (fence := await self.acquire(kind, state, shard)) is None:
                await asyncio.sleep(0)
            return fence, await state.renew(lease, ttl_seconds=TTL_SECONDS)

        await self.both("expire", call)

    async def claim(self) -> None:
        """Claim some keys."""
        shard, limit = self.rng.randrange(SHARDS), self.rng.randint(1, 3)
        newest, from_us = self.rng.randint(0, limit), self.rng.choice((0, self.clock.us - SCAN_BEHIND_US))

        async def call(kind: str, state: State) -> object:
            lease = self.leases[kind].get(shard)
            if lease is None:
                return None
            claims = await state.claim(lease, limit=limit, now_us=self.clock.us, newest=newest, from_us=from_us)
            self.claims[kind].setdefault(shard, []).extend(claims)
            return claims

        await self.both("claim", call)

    async def reclaim(self) -> None:
        """Take up again what nobody works on."""
        shard = self.rng.randrange(SHARDS)

        async def call(kind: str, state: State) -> object:
            lease = self.leases[kind].get(shard)
            if lease is None:
                return None
            at_work = [claim.hint.key for claim in self.claims[kind].get(shard, [])[:1]]
            return await state.reclaim(lease, at_work=at_work, now_us=self.clock.us)

        await self.both("reclaim", call)

    async def end(self) -> None:
        """End the work on a claimed key in one of the ways there are, under the right lease or a wrong one, once or twice."""
        rng = self.rng
        shard, pick, repeat = rng.randrange(SHARDS), rng.randrange(100), rng.random() < 0.2
        token = rng.choice(("right",) * 8 + ("wrong", "old"))
        end = self.way()

        async def call(kind: str, state: State) -> object:
            claims, last = self.claims[kind].get(shard, []), self.ended[kind]
            if repeat and last is not None:
                return await end(state, *last)
            if not claims:
                return None
            claim, lease = claims[pick % len(claims)], self.leases[kind][shard]
            if token == "wrong":
                lease = dataclasses.replace(lease, token="w:somebody-else")
            elif token == "old" and (old := [one for one in self.lost[kind] if one.shard == shard]):
                lease = old[-1]
            result = await end(state, lease, claim)
            self.ended[kind] = lease, claim
            return result

        await self.both("end", call)

    def way(self) -> Callable[[State, Lease, Claim], Awaitable[object]]:
        """One of the ways in which the work on a key ends, or goes on."""
        way, base, count = self.rng.choice(("settle",) * 3 + ("defer", "park", "hold", "intend")), self.base(), self.rng.random()

        async def end(state: State, lease: Lease, claim: Claim) -> object:
            key, generation, now = claim.hint.key, claim.hint.generation, self.clock.us
            if way == "intend":
                await state.intend(lease, key, base or Base(blob_etag="0x8DC1"))
            elif way == "settle":
                return await state.settle(lease, key, generation, base)
            elif way == "defer":
                later = now + 1_000_000
                await state.defer(lease, key, generation, not_before_us=later, error="e", count_attempt=count < 0.5)
            elif way == "park":
                await state.park(lease, key, generation, reason="r", detail="d", now_us=now)
            else:
                await state.hold(lease, key, generation, Held(key, Side.VAST, "over", now))
            return way

        return end

    async def budgets(self) -> None:
        """Deletes and undone writes, granted or not."""
        rng, now = self.rng, self.clock.us
        key, limit = rng.choice(KEYS), rng.randint(1, 3)
        name, objects = f"{rng.choice(list(Side))}:{key}", rng.randint(0, 5)
        await self.both("delete", lambda _, state: state.reserve_delete(name, BUDGET, objects=objects, now_us=now))
        version, window = str(rng.randint(1, 5)), rng.choice((5.0, 60.0))
        await self.both(
            "revert", lambda _, state: state.reserve_revert(key, version, limit=limit, window_seconds=window, now_us=now)
        )

    async def renames(self) -> None:
        """Halves of renames, within a window of time and beyond it."""
        rng, now = self.rng, self.clock.us
        key, content = rng.choice(KEYS), f"{rng.choice(MD5S)}:{rng.randint(1, 2)}"
        if rng.random() < 0.5:
            await self.both("created", lambda _, state: state.note_created(key, content, now_us=now))
        else:
            await self.both("deleted", lambda _, state: state.note_deleted(key, content, now_us=now))
        await self.both("tally", lambda _, state: state.delete_tally(BUDGET, now_us=now))
        self.clock.us += rng.choice((0, 0, 400_000_000))

    async def forget(self) -> None:
        """Old tombstones of one shard."""
        shard, before_us = self.rng.randrange(SHARDS), self.clock.us - self.rng.choice((0, 10_000_000))
        await self.both("forget", lambda _, state: state.forget_tombstones(shard, before_us=before_us))

    async def person(self) -> None:
        """What an operator does."""
        keys, verdict = list(self.rng.sample(KEYS, 2)), self.rng.choice(("released", "rejected"))
        if self.rng.random() < 0.5:
            await self.both("unpark", lambda _, state: state.unpark(keys, now_us=self.clock.us))
        else:
            await self.both("judge", lambda _, state: state.judge(keys, verdict=verdict, now_us=self.clock.us))

    async def records(self) -> None:
        """Conflicts, halts, cursors and notes."""
        rng, now = self.rng, self.clock.us
        number, empty = str(rng.randint(1, 5)), rng.random() < 0.2
        record = ConflictRecord(number, "k", Side.BLOB, Side.VAST, "tie", now, "1", "2", 1, 2, 3, "kept")
        await self.both("conflict", lambda _, state: state.record_conflict(record))
        if rng.random() < 0.3:
            await self.both("drop", lambda _, state: state.drop_conflict(number))
        halt = HaltRecord(number, "d", now, self_lifting=rng.random() < 0.5)
        await self.both("halt", lambda _, state: state.halt(halt))
        if rng.random() < 0.5:
            await self.both("lift", lambda _, state: state.lift(number))
        await self.both("note", lambda _, state: state.put_note(f"n{number}", b"" if empty else number.encode()))
        dropped, value = f"n{rng.randint(1, 5)}", rng.choice(("1", "2", number)).encode()
        await self.both("drop note", lambda _, state: state.drop_note(dropped, value))
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
        from_us = self.rng.choice((0, self.clock.us - SCAN_BEHIND_US + 1))
        await self.both("due", lambda _, state: state.due_since_us(from_us=from_us, now_us=self.clock.us))
        await self.both("bases", _bases)
        await self.both("dirty", lambda _, state: state.are_dirty(KEYS))
        for key in KEYS:
            await self.both(f"explain {key}", lambda _, state, key=key: state.explain(key))  # type: ignore[misc]
        for what in ("held", "parked", "conflicts", "halts"):
            await self.both(what, lambda _, state, what=what: getattr(state, what)())  # type: ignore[misc]


@pytest.fixture
async def kinds(clock: TestClock, tmp_path: Path) -> AsyncIterator[dict[str, State]]:
    """Both, empty."""
    async for memory in states("memory", clock, tmp_path, shards=SHARDS):
        async for redis in states("redis", clock, tmp_path, shards=SHARDS):
            both = {"memory": memory, "redis": redis}
            for state in both.values():
                await state.open()
            yield both


@pytest.mark.parametrize("seed", range(8))
async def test_the_twin_and_redis_give_the_same_answers(kinds: dict[str, State], clock: TestClock, seed: int) -> None:
    """Whatever is marked, claimed, settled, deferred, parked, held or recorded, in any order, once or twice, in time or not."""
    twins = Twins(kinds, clock, seed)
    for _ in range(STEPS):
        await twins.step()
    # Had nothing come to pass, every answer would be the same.
    assert twins.ended["redis"] is not None
    assert twins.lost["redis"]
