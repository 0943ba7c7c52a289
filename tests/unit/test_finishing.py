"""The end of a whole scan, cut off at any point and gone on with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from federation.model import Base, Change, Side, Source, Stamp
from federation.state.memory_state import MemoryState
from reconciler import finishing, parallel, sweep, withheld
from reconciler.book import COMPLETE, FINISHING, Book, kept, whole_scans
from reconciler.finishing import NEXT_SWEEP
from reconciler.report import Report
from reconciler.scan import SWEEPS, Scanner, ScanOptions
from tests.unit.test_scan import DAY, SECOND, _Clock, _Pair

_SHARDS = 3 * SWEEPS
_EACH = 4
"""Of deletes, kept copies a side, parked keys, tombstones and records of what is gone in the shards that a scan looks through."""
_WRITES = ("put_note", "mark", "record_conflict", "forget_tombstones", "own", "disown")
_PIECES = ("forget_tombstones", "base_records", "mark", "record_conflict")


class _Cut(BaseException):
    """The process was killed."""


class _State(MemoryState):
    """Gives records one at a time, counts what is looked at, and can let its process die before or after any call."""

    def __init__(self, clock: _Clock) -> None:
        super().__init__("pair", shards=_SHARDS, clock=clock)
        self.calls_left: int | None = None
        self.dies_after = False
        self.pieces: Counter[tuple[str, str]] = Counter()
        self.noted: set[object] = set()

    async def base_records(self, shard: int, *, cursor: int) -> tuple[int, list[tuple[bytes, bytes]]]:
        """As in the port."""
        _, records = await super().base_records(shard, cursor=0)
        return (cursor + 1) % max(1, len(records)), records[cursor : cursor + 1]

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401 - whatever it is
        found = super().__getattribute__(name)
        return partial(self._counted, name, found) if name in (*_WRITES, *_PIECES) else found

    async def _counted(self, name: str, call: Callable[..., Awaitable[Any]], *args: object, **options: object) -> Any:  # noqa: ANN401
        alive = self.calls_left is None or self.calls_left > 0
        if not alive and not self.dies_after:
            raise _Cut
        if self.calls_left is not None:
            self.calls_left -= 1
        if name == "put_note":
            self.noted.add(args[0])
        if name in _PIECES:
            self.pieces[name, str((args, options))] += 1
        result = await call(*args, **options) if alive or self.calls_left == -1 else None
        if not alive:
            raise _Cut
        return result


class _Lab(_Pair):
    """A pair that leaves much to do at the end of its scan."""

    def __init__(self, options: ScanOptions) -> None:
        super().__init__()
        self.state: _State = _State(self.clock)
        self.options = options

    async def scan(self) -> Report:
        """In a process of its own that has the name of the one before."""
        stores = dict(self.raw)
        scanner = Scanner(stores, self.state, self.state, self.clock, quiet_us=0, tombstone_us=30 * DAY, options=self.options)
        return await scanner.scan()

    async def fill(self) -> None:
        """Deletes on VAST, kept copies without a record, parked keys, old tombstones, and records of what neither side has."""
        for number in range(_EACH):
            await self.park(f"parked{number}")
            await self.agree(f"here{number}")
            await self.agree(f"deleted{number}")
            del self.raw[Side.VAST].objects[f"deleted{number}"]
            for side in Side:
                await self.put(side, f".federation/conflicts/lost{number}~{side}~20231114T000000Z~abcdef0{number}")
        found: dict[str, list[str]] = {"old": [], "gone": []}
        number = 0
        while min(len(keys) for keys in found.values()) < _EACH:
            for name, keys in found.items():
                key = f"{name}{number}"
                if self.state.shard_of(key) < _SHARDS // SWEEPS and len(keys) < _EACH:
                    keys.append(key)
                    base = Base(blob_etag="b", vast_etag="v", size_bytes=1)
                    await self._settle(key, base if name == "gone" else Base(deleted=True, written=Stamp(0)))
            number += 1
        self.clock.us += 120 * SECOND

    async def agree(self, key: str) -> None:
        """As in the pair, whatever the shard."""
        etags = [await self.put(side, key) for side in Side]
        await self._settle(key, Base(blob_etag=etags[0], vast_etag=etags[1], size_bytes=1, vast_as_of_us=2**52))

    async def park(self, key: str) -> None:
        """A person is waited for, though no side holds it any more."""
        await self.state.mark([Change(key, Side.BLOB, Source.EVENT_GRID)])
        lease = await self.state.acquire(self.state.shard_of(key), owner="t", ttl_seconds=60)
        assert lease is not None
        [claim] = await self.state.claim(lease, limit=9, now_us=self.clock.us)
        await self.state.park(lease, key, claim.hint.generation, reason="leased", detail="", now_us=self.clock.us)
        await self.state.release(lease)

    async def _settle(self, key: str, base: Base) -> None:
        lease = await self.state.acquire(self.state.shard_of(key), owner="t", ttl_seconds=60)
        assert lease is not None
        await self.state.settle(lease, key, 0, base)
        await self.state.release(lease)

    async def outcome(self) -> tuple[object, ...]:
        """Everything that the end of a scan does."""
        packed = await self.state.note(sweep._SUSPECTS)
        suspects = msgspec.msgpack.decode(packed or b"", type=sweep._Suspects)
        return (
            sorted(self.state._base),
            sorted(await self.state.dirty_keys(limit=99)),
            await self.state.parked(),
            [record.preserved_as for record in await self.state.conflicts()],
            sorted(suspects.records),
            await self.state.note(NEXT_SWEEP),
            await Book(self.state).plan(),
            len(await whole_scans(self.state)) > 0,
        )


@pytest.fixture(autouse=True)
def _in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(withheld, "_MARK_AT_ONCE", 1)


async def _fresh(options: ScanOptions) -> _Lab:
    lab = _Lab(options)
    await lab.fill()
    lab.state.pieces.clear()
    return lab


WRITTEN = ScanOptions(owner="one", save_rows=1)
UNWRITTEN = ScanOptions(owner="one", save_seconds=0.0)


@pytest.mark.parametrize("options", [WRITTEN, UNWRITTEN], ids=["written down", "not written down"])
@pytest.mark.parametrize("dies_after", [False, True])
async def test_a_cut_at_any_point_passes_nothing_over_and_repeats_one_piece(options: ScanOptions, *, dies_after: bool) -> None:
    """Killed before or after any call to the state: what comes of it is the same, and what was looked at is not again."""
    uncut = await _fresh(options)
    report = await uncut.scan()
    assert (report.complete, report.forgotten, report.relisted, report.tried_again, report.drift) == (
        True,
        _EACH,
        2 * _EACH,
        _EACH,
        {"deleted_on_vast": _EACH},
    )
    assert await uncut.state.parked() == []
    wanted, pieces, cuts = await uncut.outcome(), uncut.state.pieces.total(), 0
    while True:
        lab = await _fresh(options)
        lab.state.calls_left, lab.state.dies_after = cuts, dies_after
        try:
            await lab.scan()
            break
        except _Cut:
            cuts += 1
        lab.state.calls_left = None
        if await Book(lab.state).plan() is not None or await kept(lab.state, COMPLETE) is None:
            assert (await lab.scan()).complete
        assert await lab.outcome() == wanted, cuts
        assert lab.state.pieces.total() <= pieces + 1, cuts
    assert cuts > 6 * _EACH


async def test_an_end_that_another_took_over_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped for long, and whose turn another has, does not end the scan a second time."""
    monkeypatch.setattr(parallel, "POLL_SECONDS", 0.001)
    lab = await _fresh(WRITTEN)
    other = _Lab(ScanOptions(owner="two", save_rows=1))
    other.raw, other.state, other.clock = lab.raw, lab.state, lab.clock
    others: list[Report] = []
    begun = False
    forget = MemoryState.forget_tombstones

    async def stopped_meanwhile(state: MemoryState, shard: int, *, before_us: int) -> int:
        nonlocal begun
        if not begun:
            begun = True
            await state.disown(FINISHING, owner="one")  # as when its time ran out
            others.append(await other.scan())
        return await forget(state, shard, before_us=before_us)

    monkeypatch.setattr(MemoryState, "forget_tombstones", stopped_meanwhile)
    report = await lab.scan()
    assert [report.scan, report.whole] == [others[0].scan, True]
    assert [one.scan for one in await whole_scans(lab.state)] == [report.scan]


async def test_a_short_scan_is_not_written_down() -> None:
    """Where it takes no time, no plan and no place in it is kept."""
    lab = await _fresh(ScanOptions(owner="one"))
    assert (await lab.scan()).complete
    assert not {"scan:plan", "scan:finish", "scan:range:0"} & lab.state.noted
