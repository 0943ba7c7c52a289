from __future__ import annotations

import json

import pytest

from federation.model import Base, Change, Side, Source
from federation.payloads.vast import VastScope, parse
from federation.sources.key_spelling import PROOFS, KeySpelling
from federation.state.memory_state import MemoryState
from tests.contract.state_support import TestClock

SCOPE = VastScope("b", "", "auto", lambda name: name)


def _record(raw: str, etag: str = "e1", name: str = "s3:ObjectCreated:Put") -> bytes:
    item = {"key": raw, "eTag": etag, "size": 1}
    return json.dumps({"Records": [{"eventName": name, "s3": {"bucket": {"name": "b"}, "object": item}}]}).encode()


async def _state(*agreed: tuple[str, str]) -> MemoryState:
    state = MemoryState("pair", shards=1, clock=TestClock())
    await state.open()
    for key, etag in agreed:
        await state.mark([Change(key, Side.VAST, Source.VAST_EVENTS)])
        lease = await state.acquire(0, owner="t", ttl_seconds=60)
        assert lease is not None
        [claim] = await state.claim(lease, limit=1, now_us=10**18)
        await state.settle(lease, key, claim.hint.generation, Base(blob_etag="0x1", vast_etag=etag))
        await state.release(lease)
    return state


async def _picked(spelling: KeySpelling, raw: str, etag: str = "e1", name: str = "s3:ObjectCreated:Put") -> list[str]:
    parsed = parse(_record(raw, etag, name), SCOPE)
    return [change.key for change in [*parsed.changes, *await spelling.pick(parsed.ambiguous)]]


async def test_a_plain_key_is_read_in_one_way() -> None:
    """Nothing is to be learned or doubted where all spellings agree."""
    parsed = parse(_record("a/b.txt"), SCOPE)
    assert [change.key for change in parsed.changes] == ["a/b.txt"]
    assert not parsed.ambiguous


async def test_every_key_it_may_mean_is_marked_until_proved() -> None:
    """Nothing is lost while the spelling is not known."""
    assert await _picked(KeySpelling(await _state()), "a%20b+c") == ["a b+c", "a%20b+c", "a b c"]


@pytest.mark.parametrize(
    ("agreed", "raw", "expected"),
    [("a b", "a%20b", ["x y"]), ("a%20b", "a%20b", ["x%20y"])],
    ids=["percent or plus", "raw"],
)
async def test_echoes_prove_the_spelling(agreed: str, raw: str, expected: list[str]) -> None:
    """After enough of our own writes came back, an unknown key is read in that way only."""
    spelling = KeySpelling(await _state((agreed, "e1")))
    for _ in range(PROOFS):
        assert await _picked(spelling, raw) == [agreed]
    assert await _picked(spelling, "x%20y", "new") == expected


async def test_a_delete_of_a_known_key_means_that_key_and_teaches_nothing() -> None:
    """A delete names no version: it is enough to choose by, not to conclude from."""
    spelling = KeySpelling(await _state(("a b", "e1")))
    for _ in range(PROOFS):
        assert await _picked(spelling, "a%20b", name="s3:ObjectRemoved:Delete") == ["a b"]
    assert len(spelling.possible) == 3


async def test_contradicting_proofs_start_over() -> None:
    """A sender that changed its ways makes everything possible again rather than nothing."""
    spelling = KeySpelling(await _state(("a b", "e1"), ("c%20d", "e2")))
    for _ in range(PROOFS):
        await _picked(spelling, "a%20b")
    assert "raw" not in spelling.possible
    for _ in range(PROOFS):
        assert await _picked(spelling, "c%20d", "e2") == ["c%20d"]
    assert len(spelling.possible) == 3
