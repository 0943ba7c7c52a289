"""Versions that were written as files, past S3: on a gateway over a file system they have no ETag, or one that stayed."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from federation.errors import NotPresent, Reobserve
from federation.model import Metadata, Side
from federation.stores.base import Request
from federation.stores.vast_s3 import VastS3Store
from federation.stores.wire import needs_look
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import Gate
from tests.unit.world import World

pytestmark = [pytest.mark.servers, pytest.mark.full]
LATER_SECONDS = 5


@dataclasses.dataclass
class Files:
    """A store, and its bucket as a folder."""

    store: VastS3Store
    folder: Path

    def write(self, key: str, data: bytes, *, age_seconds: float = 0) -> None:
        """Write in place, as a file client does; *age_seconds* sets its time back."""
        file = self.folder / key
        file.write_bytes(data)
        if age_seconds:
            then = file.stat().st_mtime - age_seconds
            os.utime(file, (then, then))


@pytest_asyncio.fixture
async def files(request: pytest.FixtureRequest) -> AsyncIterator[Files]:
    """A fresh bucket on versitygw."""
    s3 = request.getfixturevalue("versitygw")
    bucket = f"files-{uuid4().hex[:16]}"
    store = VastS3Store(endpoint=s3.endpoint, bucket=bucket, access_key=s3.access_key, secret_key=s3.secret_key)
    await store.call(Request("PUT", "create bucket"))
    assert s3.folder is not None
    yield Files(store, s3.folder / bucket)
    await store.close()


async def _listed(store: VastS3Store) -> dict[str, str]:
    return {entry.key: entry.etag async for entry in store.list()}


async def test_a_version_without_etag_is_known_by_time_and_size(files: Files) -> None:
    """Listing and HEAD tell the same token; a longer file is another version."""
    files.write("a", b"one")
    first = (await files.store.head("a")).version.etag
    assert needs_look(first)
    assert await _listed(files.store) == {"a": first}
    files.write("a", b"longer")
    assert (await files.store.head("a")).version.etag != first


async def test_conditions_on_it_hold(files: Files) -> None:
    """Read, overwrite, copy and delete refuse another version than the one that was looked at."""
    files.write("a", b"one")
    token = (await files.store.head("a")).version.etag
    files.write("a", b"longer")
    with pytest.raises(Reobserve):
        await files.store.open("a", if_match=token)
    with pytest.raises(Reobserve):
        await files.store.put("a", b"mine", Metadata(), stamp=None, expected_etag=token)
    with pytest.raises(Reobserve):
        await files.store.delete("a", expected_etag=token)
    with pytest.raises(Reobserve):
        await files.store.copy("a", "b", source_etag=token)
    now = (await files.store.head("a")).version.etag
    reader = await files.store.open("a", if_match=now)
    assert await reader.read() == b"longer"
    await files.store.copy("a", "b", source_etag=now)
    await files.store.delete("a", expected_etag=now)
    with pytest.raises(NotPresent):
        await files.store.head("a")


@pytest.mark.parametrize("content", [b"longer than before", b"TWO"], ids=["other size", "same size"])
async def test_a_file_overwritten_under_an_etag_that_stayed_is_carried_over(files: Files, content: bytes) -> None:
    """The engine sees by size or time that the agreed ETag lies, reads, and copies what is there."""
    world = World()
    paced = PacedStore(files.store, Gate(Side.VAST, world.clock))  # which asks for the last look before a write
    world.ctx = dataclasses.replace(world.ctx, stores={**world.ctx.stores, Side.VAST: paced}, quiet_us=0)
    world.clock.us = time.time_ns() // 1_000
    await world.write(Side.BLOB, "a", "two")
    await world.step()
    written = await files.store.head("a")
    files.write("a", content, age_seconds=-LATER_SECONDS)
    world.later(2 * LATER_SECONDS)
    assert (await files.store.head("a")).version.etag == written.version.etag, "this server keeps the ETag"

    await world.tell(Side.VAST, "a", etag=None)
    for _ in range(3):
        await world.step()
        world.later()
    reader = await world.raw[Side.BLOB].open("a")
    assert await reader.read() == content
    [base] = await world.state.bases(["a"])
    assert base is not None
    assert base.size_bytes == len(content)
