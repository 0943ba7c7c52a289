"""What ``doctor`` says of what the servers can do, and how old the engine's own knowledge of it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from federation.capabilities import Capabilities
from federation.errors import Park, RetryLater
from federation.model import ListEntry, Side
from federation.settings import BlobSettings, PairSettings, RuleSettings, VastSettings, WorkerSettings
from federation.sync.pacing import Gate
from federation.sync.worker import Worker, WorkerLimits
from federation.wiring import PairRuntime
from fedplane import checks
from fedplane.checks import Finding
from operations import capabilities
from tests.unit.world import World

HOUR_SECONDS = 3600.0


def runtime(*, tags: bool = False) -> tuple[World, PairRuntime]:
    """A pair over in-memory sides."""
    world = World()
    settings = PairSettings(
        name="pair",
        blob=BlobSettings(account_url="https://a.example", container="c"),
        vast=VastSettings(endpoint="https://v.example", bucket="b", access_key_env="A", secret_key_env="B"),
        rules=RuleSettings(tags=tags),
    )
    gates = {side: Gate(side, world.clock) for side in Side}
    worker = Worker(world.ctx, gates, WorkerLimits(1, 10.0, 1.0, 3), owner="test")
    return world, PairRuntime(settings, world.ctx, gates, world.state, worker, fresh_state=False)


def of(found: list[Finding], what: str) -> Finding:
    """The one finding of that name."""
    [one] = [finding for finding in found if finding.what == what]
    return one


@pytest.mark.parametrize(
    ("lacking", "what", "word"),
    [
        ({"conditional_put": False}, "vast: conditional requests", "race_windows"),
        ({"conditional_delete": False}, "vast: conditional requests", "race_windows"),
        ({"list_in_order": False}, "vast: lists", "sorts"),
        ({"checksums": False}, "vast: checksums", "damaged"),
        ({"nested_names": False}, "vast: names", "folder"),
        ({"marks": False}, "vast: folder marks", "slash"),
        ({"checksums": False, "etag_is_md5": False}, "vast: ETags", "--verify hash"),
    ],
)
def test_what_a_server_lacks_is_a_note_with_its_consequence(lacking: dict[str, bool], what: str, word: str) -> None:
    """Named, and what follows from it; nothing of the other side."""
    world, pair = runtime()
    world.raw[Side.VAST].capabilities = replace(Capabilities(), **lacking)
    one = of(checks.honoured(pair, Side.VAST), what)
    assert one.level == "note"
    assert word in f"{one.found} {one.then}"
    assert {finding.level for finding in checks.honoured(pair, Side.BLOB)} == {"ok"}


def test_etags_that_are_no_hashes_are_told_with_what_takes_their_place() -> None:
    """Of VAST only, where they can be: it is no fault, and costs readings."""
    world, pair = runtime()
    world.raw[Side.VAST].capabilities = Capabilities()
    assert of(checks.honoured(pair, Side.VAST), "vast: ETags").found.startswith("MD5 of the content")
    world.raw[Side.VAST].capabilities = Capabilities(etag_is_md5=False)
    one = of(checks.honoured(pair, Side.VAST), "vast: ETags")
    assert (one.level, "KMS" in one.found, "Content-MD5" in one.then) == ("ok", True, True)
    assert [finding for finding in checks.honoured(pair, Side.BLOB) if "ETags" in finding.what] == []


def test_versions_and_precision_are_said() -> None:
    """Versioning on says how losers are kept; lists say their page and the precision of their times."""
    world, pair = runtime()
    found = Capabilities(versioning=True, page_size=5_000, modified_precision_us=1_000)
    world.raw[Side.VAST].capabilities = found
    findings = checks.honoured(pair, Side.VAST)
    assert "by id" in of(findings, "vast: versioning").then
    assert of(findings, "vast: lists").found == "in the order of the names' bytes, 5,000 a page, times in milliseconds"


async def test_rights_are_asked_for_without_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers 501 to a conditional delete (LocalStack does) grants the right to delete all the same."""
    world, pair = runtime()
    raw = world.raw[Side.VAST]
    delete = raw.delete

    async def picky(key: str, *, expected_etag: str) -> None:
        if raw.capabilities.conditional_delete:
            raise Park("501 NotImplemented", reason="not_supported", key=key, side=Side.VAST)
        await delete(key, expected_etag=expected_etag)

    monkeypatch.setattr(raw, "delete", picky)
    assert of(await checks.side(pair, Side.VAST), "vast: rights").found == "list, write, read, overwrite, delete"
    assert raw.capabilities.conditional_delete


@pytest.mark.parametrize(
    ("lacking", "word"),
    [({"leading_slash": False}, "common"), ({"trailing_slash": False}, "folder"), ({"case_sensitive": False}, "case")],
)
def test_a_side_on_which_two_keys_would_be_one_object_is_broken(lacking: dict[str, bool], word: str) -> None:
    """Doctor fails, and says what to do."""
    world, pair = runtime()
    world.raw[Side.VAST].capabilities = replace(Capabilities(), **lacking)
    one = of(checks.honoured(pair, Side.VAST), "vast: names")
    assert (one.level, word in one.then) == ("broken", True)


@pytest.mark.parametrize(("wanted", "can", "level"), [(True, False, "broken"), (True, True, "ok"), (False, False, "ok")])
def test_mapped_tags_need_a_side_that_keeps_them(*, wanted: bool, can: bool, level: str) -> None:
    """Switched on against a side without tags every object would be parked: doctor fails and says what to do."""
    world, pair = runtime(tags=wanted)
    world.raw[Side.BLOB].capabilities = Capabilities(tags=can)
    assert of(checks.honoured(pair, Side.BLOB), "blob: object tags").level == level


async def test_the_age_of_what_is_known_is_said() -> None:
    """First look, a look that finds the same an hour later, and one that finds something else."""
    world, pair = runtime()
    assert "first time" in of(await checks.probe(pair), "vast: abilities").found
    world.later(HOUR_SECONDS)
    again = of(await checks.probe(pair), "vast: abilities")
    assert (again.level, again.found) == ("ok", "tried just now, as 60 min ago")
    world.raw[Side.VAST].capabilities = replace(world.raw[Side.VAST].capabilities, conditional_put=False)
    world.later(HOUR_SECONDS)
    assert of(await checks.probe(pair), "vast: abilities").level == "note"


async def test_a_side_that_lists_nothing_is_named_while_the_records_know_objects() -> None:
    """As an unmounted one does; an empty side of a pair that never agreed on anything is in order."""
    world, pair = runtime()
    assert not [one for one in await checks.side(pair, Side.VAST) if one.what == "vast: objects"]
    await world.write(Side.BLOB, "a", "x")
    await world.step()
    assert not [one for one in await checks.side(pair, Side.VAST) if one.what == "vast: objects"]
    world.raw[Side.VAST].objects.clear()
    found = of(await checks.side(pair, Side.VAST), "vast: objects")
    assert (found.level, "agreed on 1" in found.found) == ("broken", True)


async def test_a_layout_without_room_is_a_note_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is wasted, nothing else is wrong."""
    world, pair = runtime()
    await world.write(Side.BLOB, "a", "x")
    await world.step()
    worker = WorkerSettings(shards=2, buckets=3)
    found = await checks.layout(pair, worker)
    assert (found.level, found.found) == ("ok", "1 objects in 2 shards of 3 buckets, room for 2,400")
    monkeypatch.setattr(checks, "room", lambda shards, buckets: shards * buckets - 6)
    found = await checks.layout(pair, worker)
    assert (found.level, "more worker.buckets" in found.then) == ("note", True)


async def test_a_sample_is_no_reason_to_read_a_whole_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that must know the order of its listing reads all of it first; some entries will do without, also out of order."""
    world, pair = runtime()
    store = world.raw[Side.VAST]
    await world.write(Side.VAST, "a", "x")
    store.ordered, asked = False, []
    original = store.list

    async def listing(*, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        async for entry in original(prefix=prefix, start_after=start_after):
            yield entry
        if not prefix:
            asked.append(store.ordered)
            raise RetryLater("out of order", reason="listing_order")

    monkeypatch.setattr(store, "list", listing)
    found = await checks.side(pair, Side.VAST)
    assert of(found, "vast: ETags of the first 1 objects").level == "ok"
    assert asked == [True]
    assert not store.ordered


async def test_within_a_day_nothing_is_tried_again() -> None:
    """A command that only needs to know goes by the note; after a day, or at another endpoint, it tries."""
    world, pair = runtime()
    await capabilities.know(pair, probe_again=True)

    def tried() -> int:
        return sum(call == "probe" for call, _ in world.raw[Side.VAST].calls)

    before = tried()
    await capabilities.know(pair, probe_again=False)
    assert tried() == before
    world.later(25 * HOUR_SECONDS)
    await capabilities.know(pair, probe_again=False)
    assert tried() == before + 1
    pair.settings = pair.settings.model_copy(update={"vast": pair.settings.vast.model_copy(update={"bucket": "other"})})
    await capabilities.know(pair, probe_again=False)
    assert tried() == before + 2


async def test_what_is_recalled_is_what_was_seen_there_lately_and_nothing_is_tried() -> None:
    """Else no ETag is taken for a hash, and the sides are named."""
    world, pair = runtime()
    vast = world.raw[Side.VAST]
    vast.capabilities = replace(vast.capabilities, etag_is_md5=False, page_size=7)
    await capabilities.know(pair, probe_again=True)
    vast.capabilities, notes, calls = Capabilities(), dict(world.state._notes), len(vast.calls)
    assert await capabilities.recall(pair) == ()
    assert (vast.capabilities.etag_is_md5, vast.capabilities.page_size) == (False, 7)
    other = pair.settings.vast.model_copy(update={"bucket": "other"})
    pair.settings, here = pair.settings.model_copy(update={"vast": other}), pair.settings
    vast.capabilities = Capabilities()
    assert await capabilities.recall(pair) == (Side.VAST,)
    assert vast.capabilities == Capabilities(etag_is_md5=False)
    pair.settings = here
    world.later(25 * HOUR_SECONDS)
    assert await capabilities.recall(pair) == tuple(Side)
    assert (world.state._notes, len(vast.calls)) == (notes, calls)


async def test_a_side_that_hangs_is_told_as_such_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks the doctor waits for an answer; the engine has more patience."""
    world, pair = runtime()
    monkeypatch.setattr(checks, "_PATIENCE_SECONDS", 0.05)

    async def hangs(name: str, key: str) -> None:
        del name, key
        await asyncio.Event().wait()

    world.raw[Side.VAST]._hook = hangs
    [found] = await checks.side(pair, Side.VAST)
    assert found.level == "unreachable"
    assert "no answer in" in found.found + found.then
