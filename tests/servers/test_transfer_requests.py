"""What a change costs in HTTP requests, counted by the proxies in front of real servers: exactly, in steady state."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from federation.model import Change, Side, Source, Stamp, StampOrigin
from federation.settings import load
from federation.wiring import PairRuntime, open_pair
from fedplane.localstack.info import StackInfo
from tests.servers.stack_lab import Lab
from tests.servers.support import eventually

pytestmark = pytest.mark.servers
COUNT = 40


@pytest_asyncio.fixture
async def runtime(info: StackInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PairRuntime]:
    """A pair of its own over the stack, its worker running; nothing else of the engine."""
    file = tmp_path / "federation.toml"
    file.write_text(info.settings_toml().replace('name = "demo"', f'name = "t{uuid4().hex[:12]}"'))
    for name, value in info.environment().items():
        monkeypatch.setenv(name, value)
    settings = load(file, dict(os.environ))
    async with open_pair(settings, settings.pair[0]) as opened:
        await opened.state.put_note("union", b"")  # as after the first whole scan
        worker = asyncio.create_task(opened.worker.run())
        yield opened
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker


async def _applied(lab: Lab, runtime: PairRuntime, changes: list[Change]) -> float:
    """The events of *changes* come; HTTP requests of the engine for each, once all is in step: as many as it says itself."""
    lab.control("POST", "/stats/reset")
    before = runtime.worker.stats.requests
    await runtime.sink.mark(changes)

    async def in_step() -> bool:
        return (await runtime.state.backlog()).dirty == 0

    await eventually(in_step, "everything applied")
    rows = [row for told in lab.control("GET", "/stats").values() for row in told["requests"]]
    made = sum(int(row["count"]) for row in rows if row["client"] == "fedplane")
    await eventually(lambda: runtime.worker.stats.requests - before == made, f"{made} requests told of")
    return made / len(changes)


async def _change(lab: Lab, runtime: PairRuntime, side: Side, keys: list[str], data: bytes) -> float:
    """A user writes *keys* and the events come; HTTP requests of the engine for each."""
    etags = await asyncio.to_thread(lambda: {key: lab.put(side.value, key, data + key.encode()) for key in keys})
    at = Stamp(runtime.context.clock.now_us(), 1, StampOrigin.EVENT)
    source = Source.EVENT_GRID if side is Side.BLOB else Source.VAST_EVENTS
    made = await _applied(lab, runtime, [Change(key, side, source, etag=etag, at=at) for key, etag in etags.items()])
    arrived = await asyncio.to_thread(lambda: [lab.get_direct(side.other.value, key) for key in keys])
    assert arrived == [data + key.encode() for key in keys]
    return made


async def test_a_change_costs_exactly_two_requests(lab: Lab, runtime: PairRuntime) -> None:
    """One GET, one conditional PUT, for new objects each way and for overwrites from VAST to Blob: 2.0, not about 2."""
    folder = uuid4().hex
    for side in Side:
        assert await _change(lab, runtime, side, [f"{folder}/{side}/{n}" for n in range(COUNT)], b"one") == 2.0
    assert await _change(lab, runtime, Side.VAST, [f"{folder}/vast/{n}" for n in range(COUNT)], b"two") == 2.0


async def test_an_overwrite_on_vast_costs_exactly_three(lab: Lab, runtime: PairRuntime) -> None:
    """Its metadata is looked at first (docs/adr/0008): GET, HEAD, conditional PUT."""
    keys = [f"{uuid4().hex}/{n}" for n in range(COUNT)]
    assert await _change(lab, runtime, Side.BLOB, keys, b"one") == 2.0
    assert await _change(lab, runtime, Side.BLOB, keys, b"two") == 3.0


async def test_metadata_alone_costs_what_is_told_of_it(lab: Lab, runtime: PairRuntime) -> None:
    """A look at VAST, and two requests on Blob: these are one call of the store, paid for and counted as two."""
    keys = [f"{uuid4().hex}/{n}" for n in range(COUNT)]
    assert await _change(lab, runtime, Side.VAST, keys, b"one") == 2.0
    bucket = lab.info.bucket
    for key in keys:
        await asyncio.to_thread(
            lab.s3_direct.copy_object,
            Bucket=bucket,
            Key=key,
            CopySource={"Bucket": bucket, "Key": key},
            Metadata={"color": "red"},
            MetadataDirective="REPLACE",
        )
    assert await _applied(lab, runtime, [Change(key, Side.VAST, Source.OPERATOR) for key in keys]) == 3.0
