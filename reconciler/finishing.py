"""What a whole scan does at its end, in pieces, so that whoever comes after a cut goes on behind the last piece that was kept.

A pair may hold more tombstones, records or kept losers than one invocation of a function has time for. A piece may be done twice
(its effect comes before it is kept, rule 6) and none is passed over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from federation.model import Change, Side, Source
from federation.ports import ChangeSink, Clock, State
from federation.progress import Parked
from federation.state.damaged import DAMAGED
from reconciler import sweep
from reconciler.report import Report
from reconciler.sweep import SWEEPS, Search, Turn
from reconciler.withheld import Gone, Withheld

SAVE_SECONDS = 2.0
"""How often it is kept how far it is: what is done again after a cut is no more than was done in this time."""
NEXT_SWEEP = "tombstones:next"
"""Note: the shard whose tombstones are looked through next."""


class Finish(msgspec.Struct, kw_only=True):
    """The end of one whole scan, as far as it is. ``report``: of the whole scan, with what its end did."""

    scan: str
    report: Report
    step: int = 0
    deletes: int = 0
    """Of the deletes that no range has marked, how many are."""
    relisted: tuple[Side, str] = (Side.BLOB, "")
    """The kept copy that was looked at last."""
    first_shard: int | None = None
    """Where the turn over the tombstones began."""
    shards: int = 0
    """Whose tombstones were looked through since."""
    search: Search = msgspec.field(default_factory=Search)
    parked_shard: int = 0
    """Whose parked keys are marked next. What was marked of them is not parked any more, so no place within is kept."""


class Relist(Protocol):
    """``federation.sync.preserve.relist`` over the stores of the pair."""

    async def __call__(self, since: tuple[Side, str], told: Callable[[Side, str, bool], Awaitable[None]]) -> int:
        """Look at the kept copies after *since*."""
        ...


class Finishing:
    """Does it. *keep* makes a ``Finish`` durable, and raises what ends this process's part in it."""

    def __init__(
        self,
        finish: Finish,
        keep: Callable[[Finish], Awaitable[None]],
        state: State,
        sink: ChangeSink,
        clock: Clock,
        deletes: Withheld,
        relist: Relist,
        *,
        tombstone_us: int,
    ) -> None:
        self.finish = finish
        self._keep = keep
        self._state = state
        self._sink = sink
        self._clock = clock
        self._deletes = deletes
        self._relist_copies = relist
        self._tombstone_us = tombstone_us
        self._kept_at = clock.monotonic_seconds()

    async def run(self, withheld: list[Gone], turn: Turn, seen: list[bytes]) -> None:
        """Do what is left. *withheld*, *seen*: of all ranges, in their order."""
        steps: tuple[Callable[[], Awaitable[None]], ...] = (
            lambda: self._mark_deletes(withheld),
            self._relist,
            self._forget_tombstones,
            lambda: self._sweep(turn, seen),
            self._mark_parked,
        )  # a new one comes last: the number of a step is kept
        for step in steps[self.finish.step :]:
            await step()
            self.finish.step += 1
            await self._now_and_then()

    async def _now_and_then(self) -> None:
        now = self._clock.monotonic_seconds()
        if now - self._kept_at >= SAVE_SECONDS:
            await self._keep(self.finish)
            self._kept_at = now

    async def _mark_deletes(self, withheld: list[Gone]) -> None:
        async def told(marked: int) -> None:
            self.finish.deletes = marked
            await self._now_and_then()

        await self._deletes.mark(self.finish.report, withheld, marked=self.finish.deletes, told=told)
        await self._deletes.few_again(self.finish.report)

    async def _relist(self) -> None:
        async def told(side: Side, name: str, found: bool) -> None:
            self.finish.relisted = side, name
            self.finish.report.relisted += found
            await self._now_and_then()

        await self._relist_copies(self.finish.relisted, told)

    async def _forget_tombstones(self) -> None:
        """Drop what both sides agreed is gone longer ago than any source may tell of; some shards a scan, so that it stays cheap.

        A tombstone is in no listing. Without it the same would be done (tests/unit/test_decide_cells.py), at the price of a look.
        """
        finish, shards = self.finish, self._state.shards
        if finish.first_shard is None:
            packed = await self._state.note(NEXT_SWEEP)
            finish.first_shard = int(packed) if packed else 0
        many = -(-shards // SWEEPS)
        before_us = finish.report.started_us - self._tombstone_us
        while finish.shards < many:
            shard = (finish.first_shard + finish.shards) % shards
            finish.report.forgotten += await self._state.forget_tombstones(shard, before_us=before_us)
            finish.shards += 1
            await self._now_and_then()
        await self._state.put_note(NEXT_SWEEP, str((finish.first_shard + many) % shards).encode())

    async def _sweep(self, turn: Turn, seen: list[bytes]) -> None:
        self.finish.report.base_only += await sweep.sweep(self._state, turn, seen, self.finish.search, self._now_and_then)

    async def _mark_parked(self) -> None:
        """Mark what was parked before the scan began: some of it no listing tells of, being gone from both sides, or new in tags.

        What the scan itself marked is not parked any more. A damaged record is no better for a look: a person's word is awaited.
        """
        finish = self.finish
        while finish.parked_shard < self._state.shards:
            cursor: int | None = None
            while cursor != 0:
                cursor, parked = await self._state.parked_records(finish.parked_shard, cursor=cursor or 0)
                await self._mark_again(parked)
            finish.parked_shard += 1
            await self._now_and_then()

    async def _mark_again(self, parked: list[Parked]) -> None:
        before_us = self.finish.report.started_us
        keys = {one.key for one in parked if one.since_us < before_us and one.reason != DAMAGED}
        if keys:
            await self._sink.mark([Change(key, side, Source.RECONCILER) for key in sorted(keys) for side in Side])
            self.finish.report.tried_again += len(keys)
        await self._now_and_then()
