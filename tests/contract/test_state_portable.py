"""Export, import and check of a pair's state, on real servers, through the commands where they decide."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from federation.errors import UsageError
from federation.model import Base, Side, Stamp
from federation.progress import ConflictRecord, Cursor, DeadLetter, HaltRecord, Held
from federation.settings import RedisSettings, Settings
from federation.state.checking import check
from federation.state.embedded import connect
from federation.state.portable import FORMAT, Header, Importer, export
from federation.state.records import pack_base
from federation.state.redis_state import RedisState
from federation.state.schema import SCHEMA
from fedplane.commands import state as commands
from tests.contract.state_support import AGREED, MD5, TestClock, agree, event, lease_of

YEAR_4000_US = 64_060_588_800_000_000
"""A file may say any time."""
NFS = dataclasses.replace(AGREED, vast_etag="48ed760a74b9d7bf5c1b6f6bd1d7b3f0")
PARTS = dataclasses.replace(AGREED, vast_etag=f"{MD5}-12", size_bytes=2**40)
LATE = dataclasses.replace(NFS, written=Stamp(YEAR_4000_US, 1_000))
KEYS = {f"k{number}": (AGREED, NFS, PARTS, LATE)[number % 4] for number in range(40)}
GONE = Base(deleted=True, written=Stamp(1_000_000))


def settings_of(folder: Path, shards: int) -> Settings:
    """Settings whose Redis is under *folder*."""
    pair = {
        "name": "pair",
        "blob": {"account_url": "https://a.blob.core.windows.net", "container": "c"},
        "vast": {"endpoint": "http://v", "bucket": "b", "access_key_env": "A", "secret_key_env": "S"},
    }
    return Settings(redis=RedisSettings(directory=folder), pair=(pair,), worker={"shards": shards})  # type: ignore[arg-type]


@pytest.fixture
async def full(clock: TestClock, tmp_path: Path) -> AsyncIterator[RedisState]:
    """A state with something of every kind."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    state = RedisState(client, "pair", shards=4, clock=clock)
    await state.open()
    for key, base in KEYS.items():
        await agree(state, key, base)
    await agree(state, "gone", GONE)
    for key in ("parked", "held", "dirty", "tried"):
        await state.mark([event(key), event(key, Side.VAST, None, None)])
        lease = await lease_of(state, key)
        if key in ("parked", "held"):
            [claim] = await state.claim(lease, limit=1, now_us=clock.us)
            held = Held(key, Side.VAST, "delete_budget", 7)
            if key == "parked":
                await state.park(lease, key, claim.hint.generation, reason="archived", detail="cold", now_us=7)
            else:
                await state.hold(lease, key, claim.hint.generation, held)
        await state.intend(lease, key, dataclasses.replace(AGREED, vast_etag=""))
        await state.release(lease)
    await state.move_cursor("vast_events", None, Cursor({"0": 5}, "opts", 1))
    await state.halt(HaltRecord("listing_order", "d", 5, self_lifting=False))
    await state.record_conflict(ConflictRecord("id", "k", Side.BLOB, Side.VAST, "tie", 9, "w", "l", YEAR_4000_US, 1, 3, "kept"))
    await state.put_note("scan:last", b"{}")
    await state.put_note("process:x", b"{}")
    await state.bury(DeadLetter("vast_events", "why", b"\xff\0", 1))
    yield state
    await state.close()
    await server.stop()


async def told(state: RedisState) -> dict[str, object]:
    """What matters of a state."""
    backlog = await state.backlog()
    return {
        "bases": list(await state.bases([*KEYS, "gone", "none"])),
        "dirty": sorted(await state.dirty_keys(limit=99)),
        "since": backlog.oldest_us_by_side[Side.BLOB],
        "objects": backlog.objects,
        "lists": [
            await state.parked(),
            await state.held(),
            await state.halts(),
            await state.conflicts(),
            await state.dead_letters(),
            backlog.dead,
        ],
        "cursor": await state.cursor("vast_events"),
        "notes": await state.notes("scan"),
        "explained": await state.explain("held"),
    }


@pytest.mark.parametrize("shards", [4, 7])
async def test_what_is_exported_comes_back_under_any_number_of_shards(
    full: RedisState, clock: TestClock, tmp_path: Path, shards: int
) -> None:
    """Records, cursor, dirty keys with their age, lists and notes; what a process said of itself stays behind."""
    file = tmp_path / "state.jsonl"
    lines = await commands._export(settings_of(tmp_path / "redis", 4), settings_of(tmp_path / "redis", 4).pair[0], file)
    assert lines == len(file.read_bytes().splitlines())
    there = settings_of(tmp_path / "other", shards)
    client, server = await connect(there.redis)
    assert server is not None
    counts = await commands._import(there, there.pair[0], file)
    assert counts["base"] == len(KEYS) + 1
    state = RedisState(client, "pair", shards=shards, clock=clock)
    assert await state.open(create=False)

    here = await told(full)
    assert await told(state) == here
    assert here["objects"] == len(KEYS)
    assert here["dirty"] == ["dirty", "tried"]
    assert await state.note("process:x") is None
    assert await state.note("union")
    assert (await check(state.calls, state.layout)).faults == []
    with pytest.raises(UsageError, match="into an empty one only"):
        await commands._import(there, there.pair[0], file)
    await state.close()
    await server.stop()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda lines: lines[:-1], "cut short"),
        (lambda lines: [*lines[:5], *lines[6:]], "cut short"),
        (lambda lines: [*lines[:5], lines[5].replace(b"{", b"{ ", 1), *lines[6:]], "SHA-256 is another"),
        (lambda lines: [*(line.replace(b"64060588800", b"64060588801") for line in lines)], "SHA-256 is another"),
        (lambda lines: lines[1:], r"Line 1 of .*spoilt\.jsonl"),
        (lambda lines: [*lines, lines[1]], "the line before it was the last"),
        (lambda lines: [*lines, lines[-1]], "the line before it was the last"),
        (lambda lines: [lines[0].replace(b'"format":2', b'"format":9'), *lines[1:]], "this one reads"),
    ],
)
async def test_a_file_that_is_not_whole_is_refused_before_anything_is_written(
    full: RedisState, tmp_path: Path, spoil: object, said: str
) -> None:
    """The line is named, and the state is as empty as before."""
    assert callable(spoil)
    lines = [line async for line in export(full.calls, full.layout, now_us=1)]
    file = tmp_path / "spoilt.jsonl"
    spoilt = spoil(lines)
    assert spoilt != lines
    file.write_bytes(b"".join(spoilt))
    there = settings_of(tmp_path / "other", 4)
    client, server = await connect(there.redis)
    assert server is not None
    with pytest.raises(UsageError, match=said):
        await commands._import(there, there.pair[0], file)
    assert await client.dbsize() == 0
    await client.aclose()
    await server.stop()


RECORD = base64.b64encode(pack_base(AGREED)).decode()
HUGE = base64.b64encode(pack_base(dataclasses.replace(AGREED, size_bytes=10**30))).decode()
DIGEST = base64.b64encode(b"d" * 16).decode()


def named(kind: str, name: str, value: bytes) -> str:
    """A line of a cursor, a note or an intent."""
    return msgspec.json.encode({kind: {"name": name, "value": value}}).decode()


def conflict(**numbers: int) -> str:
    """A line of a conflict."""
    words = dict.fromkeys(("reason", "winner_etag", "loser_etag", "preserved_as"), "w")
    known = dict.fromkeys(("at_us", "winner_written_us", "loser_written_us", "loser_size_bytes"), 1)
    record = {"conflict_id": "i", "key": "k", "winner_side": "blob", "loser_side": "vast", **words, **known, **numbers}
    return json.dumps({"conflicts": record})


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "{}",
        '{"end": {"lines": 1, "sha256": ""}, "note": 1}',
        '{"end": 1}',
        '{"unknown": {"name": "n", "value": ""}}',
        "[" * 100_000,
        '{"note": ' + "[" * 100_000,
        '{"base": {"digest": "AA==", "record": "AA=="}}',
        f'{{"base": {{"digest": "YWJj", "record": "{RECORD}"}}}}',
        f'{{"base": {{"digest": "{base64.b64encode(b"d" * 17).decode()}", "record": "{RECORD}"}}}}',
        f'{{"base": {{"digest": "{DIGEST}", "record": "{HUGE}"}}}}',
        f'{{"intent": {{"name": "k", "value": "{HUGE}"}}}}',
        '{"dirty": {"key": "k", "since_us": {"blob": -1}}}',
        f'{{"dirty": {{"key": "k", "since_us": {{"vast": {10**30}}}}}}}',
        f'{{"dirty": {{"key": "k", "since_us": {{"vast": {2**58}}}}}}}',
        f'{{"parked": {{"key": "k", "reason": "r", "detail": "", "since_us": {2**60}}}}}',
        f'{{"held": {{"key": "k", "delete_on": "blob", "reason": "r", "since_us": {-(2**60)}}}}}',
        f'{{"held": {{"key": "k", "delete_on": "blob", "reason": "r", "since_us": 1, "deleted": {{"at_us": {2**60}}}}}}}',
        f'{{"halts": {{"name": "n", "detail": "", "since_us": {2**60}, "self_lifting": true}}}}',
        conflict(loser_size_bytes=2**60),
        conflict(at_us=2**60),
        f'{{"dead": {{"source": "s", "reason": "r", "raw": "", "at_us": {2**60}}}}}',
        named("cursor", "vast_events", msgspec.json.encode(Cursor({"0": 2**60}, "", 1))),
        named("cursor", "vast_events", b"[" * 100_000),
        named("note", "pair:options", b"{"),
        named("note", "pair:options", b"[]"),
        named("note", "gap", b"soon"),
        named("note", "scan:last", b'{"rows":'),
        named("note", "scan:last", b'{"rows": [1, {"n": 1000000000000000000}]}'),
    ],
    ids=lambda line: line[:60],
)
async def test_a_line_that_would_fail_later_is_refused_before_anything_is_written(
    full: RedisState, tmp_path: Path, line: str
) -> None:
    """File and line are named, also where a number or a depth is none that whoever reads the state can take."""
    file = tmp_path / "spoilt.jsonl"
    header = msgspec.json.encode({"fedplane_state": Header(FORMAT, SCHEMA, "pair", 4, 1)})
    file.write_bytes(b"\n".join([header, line.encode(), b'{"end":{"lines":2,"sha256":""}}']) + b"\n")
    with file.open("rb") as lines, pytest.raises(UsageError, match=r"Line 2 of .*spoilt\.jsonl") as refused:
        Importer(full.calls, full.layout).rehearse(lines)
    assert len(str(refused.value)) < 500


async def test_a_state_that_fits_together_has_no_fault_while_it_is_worked_on(full: RedisState, clock: TestClock) -> None:
    """Marks, claims and settles beside the check make none."""

    async def work() -> None:
        for number in range(60):
            key = f"w{number % 7}"
            await full.mark([event(key, etag=f"0x8DD{number}")])
            lease = await lease_of(full, key)
            for claim in await full.claim(lease, limit=9, now_us=clock.us):
                await full.settle(lease, claim.hint.key, claim.hint.generation, AGREED)
            await full.release(lease)

    working = asyncio.create_task(work())
    while not working.done():
        assert (await check(full.calls, full.layout)).faults == []
    await working


async def test_each_fault_is_told_with_its_shard_and_key(full: RedisState) -> None:
    """Dirty keys that nobody will be handed, leftovers, records in the wrong place, damaged ones, a wrong count."""
    shard = full.shard_of("dirty")

    def place(name: str) -> str:
        return full.layout.of_shard(shard, name)

    other = full.layout.of_shard((shard + 1) % 4, "parked")
    bucket = full.layout.base_bucket("k0")
    await full.calls.pipe(
        [
            ("ZREM", place("due"), "dirty"),
            ("ZREM", place("since:blob"), "dirty"),
            ("ZREM", place("since:vast"), "dirty"),
            ("HSET", place("parked"), "dirty", "{}"),
            ("ZADD", place("due"), 1, "left"),
            ("HSET", place("claimed"), "left", 1),
            ("HSET", other, "dirty", "{}"),
            ("HSET", bucket, b"x" * 16, b"\xf0broken"),
            ("INCR", full.layout.of_shard(full.shard_of("k0"), "count")),
        ]
    )
    faults = (await check(full.calls, full.layout)).faults
    kinds = {one.kind: one.keys for one in faults}
    assert kinds["never_due"] == kinds["no_age"] == kinds["dirty_and_parked"] == ("dirty",)
    assert kinds["due_without_hint"] == kinds["claimed_without_hint"] == ("left",)
    assert {"bad_record", "count", "wrong_shard"} <= kinds.keys()
    assert {one.shard for one in faults if one.kind == "never_due"} == {shard}
