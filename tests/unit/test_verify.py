"""Reading everything: what no ETag tells."""

from __future__ import annotations

from dataclasses import replace

from federation.errors import Park
from federation.model import Change, Present, Side, Source
from federation.ports import ObjectStore
from federation.sync.budget import ByteBudget
from federation.sync.transfer import Transfer, TransferLimits
from reconciler.verify import verify
from tests.unit.test_scan import _Pair


async def test_contents_that_differ_under_agreed_versions_are_named() -> None:
    """Rot, or a write that kept its ETag: found by reading both sides fully; nothing is changed by looking."""
    pair = _Pair()
    for key in ("fine", "rotten", "busy", "alone", "locked"):
        await pair.agree(key)
    held = pair.raw[Side.VAST].objects
    held["rotten"] = replace(held["rotten"], data=b"y")
    del held["alone"]
    await pair.state.mark([Change("busy", Side.BLOB, Source.EVENT_GRID, etag="new")])
    transfer = Transfer(TransferLimits(1_000, 1_000, 1), ByteBudget(1_000_000))
    read = transfer.hash_object

    async def hash_object(store: ObjectStore, key: str, present: Present) -> str:
        if key == "locked":
            raise Park("archived", reason="archived", key=key)
        return await read(store, key, present)

    transfer.hash_object = hash_object  # type: ignore[method-assign]
    found = await verify(dict(pair.raw), pair.state, transfer)
    assert (found.read, found.in_flight, found.differ, found.one_sided) == (2, 1, ["rotten"], ["alone"])
    assert found.unreadable == ["locked (archived)"]
    assert not found.fine
    assert "OTHER CONTENT on the two sides: rotten" in found.text()
    assert await pair.state.dirty_keys(limit=9) == ["busy"]
