"""Records in Redis that cannot be read: the key waits for a person, everything else goes on."""

from __future__ import annotations

import ast
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import pytest

from federation.model import Base, Metadata, Side, Stamp
from federation.settings import RedisSettings
from federation.state.checking import check
from federation.state.damaged import DAMAGED
from federation.state.embedded import connect
from federation.state.records import key_digest, pack_base
from federation.state.redis_state import RedisState
from federation.stores.memory import MemoryStore
from reconciler.scan import Scanner
from tests.contract.state_support import AGREED, TestClock, agree, event, lease_of

WHOLE = pack_base(AGREED)
DELETED = pack_base(Base(deleted=True, written=Stamp(5_000_000)))
RECORDS = [b"\x1f\x01", b"\x10\x01", b"\x1f", WHOLE[:1], WHOLE[:9], WHOLE[:-1], WHOLE + b"\0", DELETED[:5], b"\xf0" + WHOLE[1:]]


@pytest.fixture
async def state(clock: TestClock, tmp_path: Path) -> AsyncIterator[RedisState]:
    """One shard, one bucket, in a real Redis."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    made = RedisState(client, "pair", shards=1, clock=clock, buckets=1)
    await made.open()
    yield made
    await made.close()
    await server.stop()


async def _damage(state: RedisState, what: str, key: str, value: bytes) -> None:
    layout = state.layout
    name, field = (layout.base_bucket(key), key_digest(key)) if what == "base" else (layout.of_shard(0, what), key.encode())
    await state.calls.pipe([("HSET", name, field, value)])


async def _parked(state: RedisState, now_us: int) -> str:
    """Claim all there is: "good" is handed out and settled, "bad" is parked; its detail."""
    lease = await lease_of(state, "bad")
    [claim] = await state.claim(lease, limit=8, now_us=now_us)
    assert (claim.hint.key, claim.base) == ("good", AGREED)
    assert await state.settle(lease, "good", claim.hint.generation, AGREED)
    assert await state.claim(lease, limit=8, now_us=now_us) == []
    await state.release(lease)
    [parked] = await state.parked()
    assert (parked.key, parked.reason, await state.are_dirty(["bad"])) == ("bad", DAMAGED, [False])
    return parked.detail


@pytest.mark.parametrize("record", RECORDS, ids=bytes.hex)
async def test_a_key_whose_base_cannot_be_read_is_parked_until_the_record_is_forgotten(
    state: RedisState, clock: TestClock, record: bytes
) -> None:
    """Each mark and retry parks it again, with the command that forgets the record; after that it is a key without a base."""
    for key in ("bad", "good"):
        await agree(state, key)
    await _damage(state, "base", "bad", record)
    detail = ""
    for _ in range(2):
        for side in Side:
            await state.mark([event("bad", side, etag="other"), event("good", side, etag="other")])
        detail = await _parked(state, clock.us)
    assert await state.forget_tombstones(0, before_us=clock.us) == 0
    assert any(fault.kind == "bad_record" for fault in (await check(state.calls, state.layout)).faults)

    _, bucket, *fields = detail[detail.index("HDEL ") :].split(" ")
    assert await state._redis.execute_command("HDEL", bucket, *(ast.literal_eval(f"b{field}") for field in fields))
    assert await state.unpark(["bad"], now_us=clock.us) == 1
    lease = await lease_of(state, "bad")
    [claim] = await state.claim(lease, limit=8, now_us=clock.us)
    assert (claim.hint.key, claim.base) == ("bad", None)


DAMAGED_VALUES = (b"\xc1", b"\x93\x01", b"\x92\x05\x01", b"{}")


@pytest.mark.parametrize(("what", "value"), [("hint", b""), *product(("hint", "held", "intent"), DAMAGED_VALUES)])
async def test_what_else_is_recorded_of_a_key_and_cannot_be_read_parks_it_alone(
    state: RedisState, clock: TestClock, what: str, value: bytes
) -> None:
    """A hint is made anew by the next mark; of the others, which when empty are none, the detail names the record."""
    for key in ("bad", "good"):
        await agree(state, key)
    await state.mark([event("bad"), event("good")])
    await _damage(state, what, "bad", value)
    detail = await _parked(state, clock.us)
    assert f"The {what} record" in detail
    if what == "hint":
        assert await state.unpark(["bad"], now_us=clock.us) == 1
        lease = await lease_of(state, "bad")
        [claim] = await state.claim(lease, limit=8, now_us=clock.us)
        assert (claim.hint.key, claim.base) == ("bad", AGREED)
    else:
        assert detail.endswith(f'HDEL {state.layout.of_shard(0, what)} "bad"')


@pytest.mark.parametrize("record", RECORDS, ids=bytes.hex)
@pytest.mark.parametrize("sides", [(Side.BLOB,), (Side.VAST,), tuple(Side)], ids=str)
async def test_a_scan_marks_a_key_whose_base_cannot_be_read_and_goes_on(
    state: RedisState, clock: TestClock, record: bytes, sides: tuple[Side, ...]
) -> None:
    """It comes to its end, and the key to be parked: gone on one side or not, it is neither copied nor deleted for that."""
    stores = {side: MemoryStore(side, clock=clock) for side in Side}
    for side in Side:
        for key in ["bad", "good"] if side in sides else ["good"]:
            await stores[side].put(key, b"x", Metadata(), stamp=None, expected_etag=None)
    await agree(state, "bad")
    await _damage(state, "base", "bad", record)
    report = await Scanner(dict(stores), state, state, clock, quiet_us=0, tombstone_us=10**15).scan()
    assert report.complete
    lease = await lease_of(state, "bad")
    claims = await state.claim(lease, limit=8, now_us=clock.us + 3_600_000_000)
    assert [claim.hint.key for claim in claims] == ["good"]
    assert [(one.key, one.reason) for one in await state.parked()] == [("bad", DAMAGED)]


async def test_a_mark_makes_a_damaged_hint_anew(state: RedisState, clock: TestClock) -> None:
    """Other changes of the same call are marked too."""
    await state.mark([event("bad")])
    await _damage(state, "hint", "bad", b"\xc1")
    assert (await state.mark([event("good"), event("bad", etag="0x8DCB")])).marked == 2
    lease = await lease_of(state, "bad")
    assert {claim.hint.key for claim in await state.claim(lease, limit=8, now_us=clock.us)} == {"good", "bad"}


@pytest.mark.parametrize("key", ["k" * 1024, 'a b"c\\d', "é\n\x01", "\U0010ffff" * 256], ids=["long", "quotes", "odd", "wide"])
async def test_the_command_that_forgets_a_record_is_whole_whatever_the_key(state: RedisState, clock: TestClock, key: str) -> None:
    """As redis-cli reads it: a person can run what they are told to."""
    await agree(state, key)
    await state.mark([event(key)])
    await _damage(state, "intent", key, b"\xff")
    assert await state.claim(await lease_of(state, key), limit=8, now_us=clock.us) == []
    [parked] = await state.parked()
    command = parked.detail[parked.detail.index("HDEL ") :]
    _, place, name = command.split(" ", 2)
    assert ast.literal_eval(f"b{name}") == key.encode()
    assert await state.calls.pipe([("HDEL", place, key)]) == [1]


@pytest.mark.parametrize("value", [b"", b"{}", b"\xc1", b'{"key":1}'])
async def test_a_parked_record_that_cannot_be_read_ends_no_scan_and_is_told(state: RedisState, value: bytes) -> None:
    """The scan passes it over and tries the others again; `state check` names it."""
    await _damage(state, "parked", "bad", value)
    await state.mark([event("good", Side.BLOB)])
    lease = await lease_of(state, "good")
    [claim] = await state.claim(lease, limit=8, now_us=TestClock().us)
    await state.park(lease, "good", claim.hint.generation, reason="leased", detail="", now_us=1)
    assert [one.key for one in (await state.parked_records(0, cursor=0))[1]] == ["good"]
    assert await state.are_parked(["bad", "good", "other"]) == [True, True, False]
    [fault] = [fault for fault in (await check(state.calls, state.layout)).faults if fault.kind == "bad_record"]
    assert (fault.count, fault.keys) == (1, ("bad",))
