"""Imports that do not come to their end: killed between pieces, repeated, and a half-filled state that nobody uses."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from federation.errors import RetryLater, UsageError
from federation.model import Side
from federation.progress import Cursor, DeadLetter
from federation.settings import Settings, load
from federation.state.checking import check
from federation.state.client import single
from federation.state.importing import filling, import_lines
from federation.state.portable import LINES_AT_ONCE, Importer, Seal, export
from federation.state.redis_state import RedisState
from fedplane import exit_codes
from fedplane.commands import state as commands
from tests.contract.redis_servers import Server
from tests.contract.state_support import AGREED, STATE_TOML, TestClock, agree, event, lease_of

KEYS = [f"k{number}" for number in range(40)]


class Place:
    """A Redis, the settings that name it, and an export to take into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server(folder / "server")
        self.file = folder / "state.jsonl"

    def settings(self, shards: int = 3) -> Settings:
        """Of a state of *shards* shards."""
        file = self.folder / f"{shards}.toml"
        file.write_text(STATE_TOML.format(url=self.server.url, shards=shards))
        return load(file)

    def state(self, clock: TestClock, shards: int = 3, pair: str = "pair") -> RedisState:
        """As another program sees it."""
        return RedisState(single(self.server.url), pair, shards=shards, clock=clock)

    async def run(self, *words: str, shards: int = 3) -> tuple[int, str]:
        """One program in a process of its own: its exit status and what it complained of."""
        self.settings(shards)
        command = [sys.executable, "-m", *words, "--config", str(self.folder / f"{shards}.toml")]
        process = await asyncio.create_subprocess_exec(
            *command, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
        )
        complaint = (await process.communicate())[1].decode()
        assert process.returncode is not None
        return process.returncode, complaint

    async def be_killed(self, after: int, shards: int = 3) -> None:
        """An import that ends after some pieces."""
        status, _ = await self.run("tests.contract.killed_import", str(after), "state", "import", str(self.file), shards=shards)
        assert status == -signal.SIGKILL

    async def repeat(self, shards: int = 3) -> dict[str, int]:
        """The import, to its end."""
        settings = self.settings(shards)
        return await commands._import(settings, settings.pair[0], self.file)


@pytest.fixture
async def place(clock: TestClock, tmp_path: Path) -> AsyncIterator[Place]:
    """An export of forty agreed keys and one of everything that a repeated import might count twice."""
    place = Place(tmp_path)
    place.server.start()
    await place.server.ready()
    state = place.state(clock, shards=2, pair="source")
    await state.open()
    for key in KEYS:
        await agree(state, key)
    for key in ("parked", "dirty"):
        await state.mark([event(key), event(key, Side.VAST, None, None)])
    lease = await lease_of(state, "parked")
    for claim in await state.claim(lease, limit=9, now_us=clock.us):
        if claim.hint.key == "parked":
            await state.park(lease, "parked", claim.hint.generation, reason="archived", detail="cold", now_us=7)
    await state.move_cursor("vast_events", None, Cursor({"0": 5}, "opts", 1))
    await state.bury(DeadLetter("vast_events", "why", b"\xff\0", 1))
    await state.put_note("scan:last", b"{}")
    place.file.write_bytes(b"".join([line async for line in export(state.calls, state.layout, now_us=1)]))
    await state.close()
    yield place
    place.server.kill()


async def is_whole(place: Place, clock: TestClock, shards: int = 3) -> None:
    """What the export tells is there, once."""
    state = place.state(clock, shards)
    assert await state.open(create=False)
    assert list(await state.bases(KEYS)) == [AGREED] * len(KEYS)
    backlog = await state.backlog()
    assert (backlog.objects, backlog.dirty, backlog.parked) == (len(KEYS), 1, 1)
    assert len(await state.dead_letters()) == 1
    assert await state.cursor("vast_events") == Cursor({"0": 5}, "opts", 1)
    assert await state.note("union")
    checked = await check(state.calls, state.layout)
    assert (checked.records, checked.faults) == (len(KEYS), [])
    await state.close()


async def test_an_import_that_lost_the_state_sends_nothing_more_to_it(place: Place, clock: TestClock) -> None:
    """Another may have filled it meanwhile, and be at work in it: it asks before each piece, also before the last."""
    state = place.state(clock)

    async def lost() -> None:
        raise RetryLater("another import", reason="state_importing")

    with place.file.open("rb") as file, pytest.raises(RetryLater):
        await import_lines(state, file, lost)
    assert [key async for key in state._redis.scan_iter("fed:{pair}*")] == []
    assert [key async for key in state._redis.scan_iter("fed:{pair/*")] == []
    await state.close()


@pytest.mark.parametrize("after", [1, 2, 7, 12, 13])
async def test_an_import_killed_between_two_pieces_is_repeated(place: Place, clock: TestClock, after: int) -> None:
    """Whatever the first one wrote, and however far the second came with clearing it away, nothing is there twice or missing."""
    await place.be_killed(after)
    await place.be_killed(after + 1, shards=3)
    await place.repeat()
    await is_whole(place, clock)


async def test_it_may_be_repeated_into_another_number_of_shards(place: Place, clock: TestClock) -> None:
    """Nothing of the first one's shards is left."""
    await place.be_killed(9, shards=5)
    await place.repeat(shards=2)
    await is_whole(place, clock, shards=2)
    client = single(place.server.url)
    assert [key async for key in client.scan_iter("fed:{pair/2}*")] == []
    await client.aclose()


async def test_nobody_uses_a_half_filled_state(place: Place, clock: TestClock) -> None:
    """Neither the engine nor a scan nor status nor an export; each says what to do."""
    await place.be_killed(5)
    for words in (("run",), ("reconcile",), ("status",), ("state", "check"), ("state", "export", str(place.folder / "out"))):
        status, complaint = await place.run("fedplane.cli", *words)
        assert status == exit_codes.USAGE
        assert "Repeat `fedplane state import FILE`" in complaint
        assert "Traceback" not in complaint
    state = place.state(clock)
    for create in (True, False):
        with pytest.raises(UsageError, match="was cut short"):
            await state.open(create=create)
    await state.close()


async def test_a_state_in_use_is_never_filled(place: Place, clock: TestClock) -> None:
    """Also one that was begun between the first look and the import's beginning."""
    state = place.state(clock)
    await state.open()
    await agree(state, "ours")
    with pytest.raises(UsageError, match="into an empty one only"):
        async with filling(state, now_us=1):
            pytest.fail("it may not be filled")
    assert list(await state.bases(["ours"])) == [AGREED]
    assert await state.open(create=False)
    await state.close()


async def test_two_imports_do_not_fill_one_state(place: Place, clock: TestClock) -> None:
    """The second waits until the first one ended, or has been silent for long enough to be dead."""
    one, other = place.state(clock), place.state(clock)
    async with filling(one, now_us=1):
        with pytest.raises(RetryLater, match="another import"):
            async with filling(other, now_us=1):
                pytest.fail("it may not be filled by both")
    assert await other.open(create=False)
    await one.close()
    await other.close()


async def test_an_import_that_was_stopped_does_not_end_another_ones(place: Place, clock: TestClock) -> None:
    """Its time ran out and another began: what that is filling stays closed."""
    one, other = place.state(clock), place.state(clock)
    owners = one.layout.of_pair("owners")
    beginning = filling(one, now_us=1)
    await beginning.__aenter__()
    await one._redis.delete(owners)
    async with filling(other, now_us=1):
        with pytest.raises(RetryLater, match="another import"):
            await beginning.__aexit__(None, None, None)
        with pytest.raises(UsageError, match="was cut short"):
            await one.open(create=False)
    assert await one.open(create=False)
    await one.close()
    await other.close()


async def test_an_import_that_lost_the_state_marks_nothing_in_it(place: Place, clock: TestClock) -> None:
    """It asks before each piece, and while it reads much that is nothing to mark: that takes longer than its word holds."""
    state = place.state(clock)
    await state.open()
    await agree(state, "agreed")
    await state.mark([event("dirty")])
    lines = [line async for line in export(state.calls, state.layout, now_us=1)]
    [agreed] = [line for line in lines if line.startswith(b'{"base"')]
    long, seal = [lines[0], *[agreed] * 2 * LINES_AT_ONCE, *lines[1:-1]], Seal()
    for line in long:
        seal.add(line)
    place.file.write_bytes(b"".join([*long, msgspec.json.encode({"end": seal.end()})]))
    holds: list[int] = []

    async def hold() -> None:
        holds.append((await state.backlog()).dirty)

    async def lost() -> None:
        await hold()
        if len(holds) == asked:
            raise RetryLater("another import", reason="state_importing")

    with place.file.open("rb") as file:
        await state._redis.flushall()
        await import_lines(state, file, hold)
        asked, marks = len(holds), list(Importer(state.calls, state.layout).dirty(place.file.read_bytes().splitlines()))
        assert [len(piece) for piece in marks] == [0, 0, 1]
        holds.clear()
        await state._redis.flushall()
        with pytest.raises(RetryLater):
            await import_lines(state, file, lost)
    assert (await state.backlog()).dirty == 0
    await state.close()
