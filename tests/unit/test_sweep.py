"""Base records of objects that are on neither side."""

from __future__ import annotations

from federation.model import Base, Side
from reconciler.scan import SWEEPS, Scanner
from reconciler.sweep import Turn
from tests.unit.test_scan import DAY, SECOND, _Pair


def _gone(pair: _Pair, key: str) -> None:
    for side in Side:
        del pair.raw[side].objects[key]


async def test_records_of_what_is_on_neither_side_are_dropped_by_the_second_scan() -> None:
    """The first suspects, the second proves; what is in a listing stays, and so does what changed meanwhile."""
    pair = _Pair()
    for key in ("gone", "here", "back"):
        await pair.agree(key)
    _gone(pair, "gone")
    _gone(pair, "back")
    assert (await pair.scanner.scan()).base_only == 0
    await pair.agree("back")
    second = await pair.scanner.scan()
    assert second.base_only == 1
    assert "on neither side" in second.text()
    gone, here, back = await pair.state.bases(["gone", "here", "back"])
    assert gone is None
    assert here is not None
    assert back is not None
    assert (await pair.state.backlog()).objects == 2


async def test_every_shard_comes_round() -> None:
    """Some shards a scan; a pair with nothing to drop goes on to the next ones at each scan."""
    pair = _Pair()
    pair.state = type(pair.state)("pair", shards=64, clock=pair.clock)
    scanner = Scanner(dict(pair.raw), pair.state, pair.state, pair.clock, quiet_us=0, tombstone_us=30 * DAY)
    for number in range(100):
        key = f"k{number}"
        base_etags = [(await pair.put(side, key)) for side in Side]
        lease = await pair.state.acquire(pair.state.shard_of(key), owner="t", ttl_seconds=60)
        assert lease is not None
        await pair.state.settle(lease, key, 0, _base(*base_etags, at_us=pair.clock.us))
        await pair.state.release(lease)
        if number % 2:
            _gone(pair, key)
    dropped = [(await scanner.scan()).base_only for _ in range(2 * SWEEPS)]
    assert sum(dropped) == 50
    assert max(dropped) < 20


def _base(blob: str, vast: str, *, at_us: int) -> Base:
    return Base(blob_etag=blob, vast_etag=vast, size_bytes=1, vast_as_of_us=at_us + 10 * SECOND)


def test_a_turn_goes_round_the_shards() -> None:
    """The last shards and the first may be in one turn."""
    turn = Turn(8, first=6, many=4)
    assert [shard for shard in range(8) if turn.has(shard)] == [0, 1, 6, 7]
    assert turn.all == [6, 7, 0, 1]
