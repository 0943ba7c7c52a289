"""The form of a pair's state: refusals that say what to do, and migrations that may be cut short."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from federation.errors import RetryLater, UsageError
from federation.settings import RedisSettings
from federation.state import calls, schema
from federation.state.calls import Script
from federation.state.embedded import connect
from federation.state.redis_state import RedisState
from federation.state.schema import SCHEMA, Migration
from tests.contract.state_support import TestClock

RENAME = 'if redis.call("EXISTS", KEYS[1]) == 1 then redis.call("RENAME", KEYS[1], KEYS[2]) end return 1'


@pytest.fixture
async def made(clock: TestClock, tmp_path: Path) -> AsyncIterator[RedisState]:
    """An opened state of this program's schema."""
    client, server = await connect(RedisSettings(directory=tmp_path / "redis"))
    assert server is not None
    state = RedisState(client, "pair", shards=2, clock=clock)
    await state.open()
    yield state
    await state.close()
    await server.stop()


async def be_of(state: RedisState, number: int) -> None:
    """Pretend that a program of that schema made it."""
    await state.calls.pipe([("HSET", "fed:{pair}:meta", "schema", number)])


async def test_a_newer_state_is_refused_by_an_older_program(made: RedisState) -> None:
    """The text says which version to use; nothing is touched."""
    await be_of(made, SCHEMA + 1)
    for create in (True, False):
        with pytest.raises(UsageError, match="a newer fedplane made it"):
            await made.open(create=create)


async def test_an_older_state_without_a_way_is_refused(made: RedisState) -> None:
    """There is no migration from it, and the text says what can be done."""
    await be_of(made, 1)
    with pytest.raises(UsageError, match="cannot migrate"):
        await made.open()


FORM = {b"epoch", b"schema", b"shards", b"buckets", b"created_us"}


async def test_a_state_of_which_only_the_epoch_was_noted_gets_its_form(made: RedisState, clock: TestClock) -> None:
    """Whoever opens it first says which; with other shards it is refused from then on, and who only looks says nothing."""
    meta = "fed:{pair}:meta"
    await made.calls.pipe([("DEL", meta), ("HSET", meta, "epoch", "e")])
    assert await made.open(create=False)
    assert await made.calls.pipe([("HLEN", meta)]) == [1]
    assert await made.open()
    assert set(await made._redis.hkeys(meta)) == FORM
    assert await made._redis.hget(meta, "epoch") == b"e"
    other = RedisState(made._redis, "pair", shards=3, clock=clock)
    for create in (True, False):
        with pytest.raises(UsageError, match="has shards=2, this program wants 3"):
            await other.open(create=create)


@pytest.mark.parametrize("trips", range(4))
async def test_whoever_dies_while_it_begins_a_state_leaves_none_or_a_whole_one(
    made: RedisState, monkeypatch: pytest.MonkeyPatch, trips: int
) -> None:
    """However many of its round trips were made."""
    await made._redis.flushall()
    left = trips
    send = made.calls._send

    async def counted(commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        nonlocal left
        left -= 1
        if left < 0:
            raise RetryLater("died", reason="test")
        return await send(commands)

    with monkeypatch.context() as patch, suppress(RetryLater):
        dying = RedisState(made._redis, "pair", shards=2, clock=TestClock())
        patch.setattr(dying.calls, "_send", counted)
        patch.setattr(dying.calls, "_reply", lambda *words: _first(counted([words])))
        await dying.open()
    assert set(await made._redis.hkeys("fed:{pair}:meta")) in (set(), FORM)


async def _first(replies: Awaitable[list[Any]]) -> Any:  # noqa: ANN401 - Redis' own reply types
    return (await replies)[0]


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema before this one, in which parked keys were filed under another name."""
    scripts = calls.script

    def script(name: str) -> Script:
        return Script(RENAME, "0" * 40) if name == "migrate_test" else scripts(name)

    monkeypatch.setattr(calls, "script", script)
    monkeypatch.setattr(schema, "MIGRATIONS", {SCHEMA - 1: Migration("migrate_test", ("old-parked", "parked"))})


@pytest.mark.usefixtures("made_up")
async def test_an_older_state_is_migrated_by_the_one_who_may_write(made: RedisState) -> None:
    """Every shard is taken along; a command that only looks says who migrates."""
    await be_of(made, SCHEMA - 1)
    for shard in range(2):
        record = f'{{"key":"k{shard}","reason":"r","detail":"","since_us":1}}'
        await made.calls.pipe([("HSET", made.layout.of_shard(shard, "old-parked"), f"k{shard}", record)])
    with pytest.raises(UsageError, match="Start `fedplane run` with this version"):
        await made.open(create=False)
    assert await made.parked() == []

    assert await made.open()
    assert len(await made.parked()) == 2
    assert await made.open(create=False)


@pytest.mark.usefixtures("made_up")
async def test_a_migration_cut_short_is_finished_by_the_next(made: RedisState) -> None:
    """It says of itself that it is not done, one process at a time does it, and doing a shard twice does no harm."""
    await be_of(made, SCHEMA)
    await made.calls.pipe([("HSET", "fed:{pair}:meta", "migrating", SCHEMA - 1)])
    await made.calls.pipe(
        [("HSET", made.layout.of_shard(1, "old-parked"), "k", b'{"key":"k","reason":"r","detail":"","since_us":1}')]
    )
    assert await made.own("migrate", owner="another", ttl_seconds=60)
    with pytest.raises(RetryLater, match="being migrated"):
        await made.open()
    await made.disown("migrate", owner="another")

    assert await made.open()
    assert len(await made.parked()) == 1
    assert await made.calls.pipe([("HEXISTS", "fed:{pair}:meta", "migrating")]) == [0]
