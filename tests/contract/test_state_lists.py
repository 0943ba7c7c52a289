"""``fedplane held``, ``parked`` and ``conflicts`` over more records than anybody reads: bounded, in pieces, and it is said."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from federation.clock import SystemClock
from federation.model import Change, Side, Source
from federation.progress import ConflictRecord, Held, Parked
from federation.state.client import single
from federation.state.lists import count, records
from federation.state.redis_state import RedisState
from fedplane import cli
from tests.contract.redis_servers import Server
from tests.contract.state_support import STATE_TOML

COUNT, SHARDS = 2_500, 2
KINDS = {"held": Held, "parked": Parked, "conflicts": ConflictRecord}
Run = Callable[..., str]


def record(kind: str, number: int) -> Held | Parked | ConflictRecord:
    """The record of that age; its key tells the age too."""
    key = f"k{number:05d}"
    if kind == "held":
        return Held(key, Side.VAST, "delete_budget", number)
    if kind == "parked":
        return Parked(key, "archived", "cold", number)
    return ConflictRecord(f"id{number:05d}", key, Side.BLOB, Side.VAST, "tie", number, "w", "l", 2, 1, 3, "kept")


def fill(state: RedisState, kind: str) -> list[tuple[Any, ...]]:
    """Commands that put thousands of *kind* there, the youngest first."""
    commands: list[tuple[Any, ...]] = []
    for number in reversed(range(COUNT)):
        one = record(kind, number)
        where = state._of(one.key, kind) if not isinstance(one, ConflictRecord) else state.layout.of_pair(kind)
        field = one.key if not isinstance(one, ConflictRecord) else one.conflict_id
        commands.append(("HSET", where, field, msgspec.json.encode(one)))
    return commands


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis with thousands of records of each kind."""
    server = Server(tmp_path_factory.mktemp("lists"))
    server.start()

    async def begin() -> None:
        await server.ready()
        state = RedisState(single(server.url), "pair", shards=SHARDS, clock=SystemClock())
        await state.open()
        for kind in KINDS:
            await state.calls.pipe(fill(state, kind))
        await state.close()

    asyncio.run(begin())
    yield server
    server.kill()


@pytest.fixture
def run(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """What a command prints."""
    file = tmp_path / "federation.toml"
    file.write_text(STATE_TOML.format(url=server.url, shards=SHARDS))

    def command(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["fedplane", *words, "--config", str(file)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    return command


def keys_of(told: list[dict[str, Any]], kind: str) -> list[str]:
    """Keys of the records in a JSON list."""
    return [one[kind.removesuffix("s")]["key"] for one in told if "more" not in one]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [(), ("list",)])
def test_a_list_is_the_oldest_thousand_and_says_how_many_are_left(run: Run, kind: str, words: tuple[str, ...]) -> None:
    """In JSON as a last element of its own form, in text as a last line."""
    told = json.loads(run(kind, *words, "--json"))
    assert keys_of(told, kind) == [f"k{number:05d}" for number in range(1_000)]
    assert told[-1] == {"pair": "pair", "more": COUNT - 1_000, "limit": 1_000}
    lines = run(kind, *words).splitlines()
    assert "… and 1,500 more of pair pair; --limit 0 prints all" in lines
    assert sum(" k0" in line for line in lines) == 1_000


@pytest.mark.parametrize("kind", KINDS)
def test_all_are_printed_on_demand_as_they_are_read(run: Run, kind: str) -> None:
    """Each once, in one JSON document, and nothing is said of more; a table has one heading."""
    told = json.loads(run(kind, "--limit", "0", "--json"))
    assert sorted(keys_of(told, kind)) == [f"k{number:05d}" for number in range(COUNT)]
    assert len(told) == COUNT
    text = run(kind, "list", "--limit", "0")
    assert sum(" k0" in line for line in text.splitlines()) == COUNT
    assert "more of pair" not in text
    assert len([line for line in text.splitlines() if "pair" in line and "key" in line]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_that_fits_its_limit_is_not_called_cut(run: Run, kind: str) -> None:
    """Exactly as many as there are is all of them."""
    told = json.loads(run(kind, "--limit", str(COUNT), "--json"))
    assert keys_of(told, kind) == [f"k{number:05d}" for number in range(COUNT)]
    assert len(told) == COUNT


def test_a_conflict_is_found_among_thousands(run: Run) -> None:
    """By the beginning of its id, as before."""
    assert json.loads(run("conflicts", "show", "id02345", "--json"))["key"] == "k02345"


@pytest.mark.parametrize(("words", "told"), [("held reject", "rejected"), ("parked retry", "retried")])
def test_a_word_on_all_of_them_is_carried_out_in_pieces(
    server: Server, run: Run, words: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is left out, each is counted once, and never are all of them in memory; a named key costs no look at the others."""
    most = 0
    judge, unpark, held = RedisState.judge, RedisState.unpark, RedisState.held

    async def judged(state: RedisState, keys: Sequence[str], *, verdict: str, now_us: int) -> int:
        nonlocal most
        most = max(most, len(keys))
        return await judge(state, keys, verdict=verdict, now_us=now_us)

    async def unparked(state: RedisState, keys: Sequence[str], *, now_us: int) -> int:
        nonlocal most
        most = max(most, len(keys))
        return await unpark(state, keys, now_us=now_us)

    async def some(state: RedisState, keys: Sequence[str] | None = None) -> list[Held]:
        assert keys is not None
        return await held(state, keys)

    monkeypatch.setattr(RedisState, "judge", judged)
    monkeypatch.setattr(RedisState, "unpark", unparked)
    monkeypatch.setattr(RedisState, "held", some)
    monkeypatch.delattr("federation.state.redis_records.RecordQueries.parked")
    assert json.loads(run(*words.split(), "k00007", "--json")) == {told: 1}
    left = COUNT - (told == "retried")
    assert json.loads(run(*words.split(), "--all", "--json")) == {told: left}
    assert 1 < most < COUNT
    asyncio.run(_filled_again(server))


async def _filled_again(server: Server) -> None:
    state = RedisState(single(server.url), "pair", shards=SHARDS, clock=SystemClock())
    for kind in KINDS:
        await state.calls.pipe(fill(state, kind))
    await state.close()


async def test_the_lists_are_read_in_pieces(server: Server) -> None:
    """No query takes a whole hash in one command, and a first piece comes before the rest."""
    state = RedisState(single(server.url), "pair", shards=SHARDS, clock=SystemClock())
    await state._redis.config_resetstat()
    for kind in KINDS.values():
        first = await anext(records(state.calls, state.layout, kind))
        assert 0 < len(first) < COUNT / 4
        assert await count(state.calls, state.layout, kind) == COUNT
    assert [one.since_us for one in await state.held()] == list(range(COUNT))
    assert [one.since_us for one in await state.parked()] == list(range(COUNT))
    assert [one.at_us for one in await state.conflicts()] == list(range(COUNT))
    told: dict[str, Any] = await state._redis.info("commandstats")
    assert not told.keys() & {"cmdstat_hvals", "cmdstat_hgetall", "cmdstat_hkeys"}
    await state.close()


async def test_parked_keys_are_read_on_while_they_are_marked(server: Server) -> None:
    """As at the end of a whole scan: those of a piece go while the next is asked for, and none is passed over."""
    state = RedisState(single(server.url), "other", shards=1, clock=SystemClock())
    await state.open()
    await state.calls.pipe([("HSET", state.layout.of_shard(0, "parked"), *_packed(number)) for number in range(2_000)])
    cursor, pieces, found = 0, 0, set[str]()
    while pieces == 0 or cursor:
        cursor, piece = await state.parked_records(0, cursor=cursor)
        await state.mark([Change(one.key, Side.BLOB, Source.RECONCILER) for one in piece])
        found |= {one.key for one in piece}
        pieces += 1
    assert pieces > 1
    assert found == {f"k{number}" for number in range(2_000)}
    assert await state.parked() == []
    await state.close()


def _packed(number: int) -> tuple[str, bytes]:
    return f"k{number}", msgspec.json.encode(Parked(f"k{number}", "leased", "", 1))
