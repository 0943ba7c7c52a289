"""What the engine adds to the requests of a small copy: processor time an object, beside the bare lane's.

The whole worker with its Redis, loops over the bare stores, and loops over the bare HTTP lane send the same requests to stubs in
another process.

python bench/copy_engine.py [--profile]
"""

from __future__ import annotations

import asyncio
import base64
import cProfile
import hashlib
import multiprocessing
import os
import pstats
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from federation.model import Change, Metadata, OriginStamp, Side, Source, Stamp, StampOrigin
from federation.settings import load
from federation.stores.lane import HttpLane
from federation.sync.stats import DecisionLine
from federation.telemetry import configure_logging
from federation.wiring import PairRuntime, open_pair

COUNT, LANES = 6_000, 32
BODY = bytes(1024)
MD5 = hashlib.md5(BODY, usedforsecurity=False)
_CONTENT_MD5 = base64.b64encode(MD5.digest()).decode()
_CHANGED = "Fri, 21 Nov 2025 10:00:00 GMT"
_ANSWER = (
    f"HTTP/1.1 200 OK\r\nLast-Modified: {_CHANGED}\r\nx-ms-blob-type: BlockBlob\r\nx-ms-request-id: 0f8fad5b\r\n"
    'Content-Type: application/octet-stream\r\nETag: "{etag}"\r\nContent-Length: {length}\r\n\r\n'
)
# With its hash, as Blob keeps one of what comes in one request: content without one is read in another way (docs/adr/0018).
READ = _ANSWER.replace("ETag", f"Content-MD5: {_CONTENT_MD5}\r\nETag").format(etag="0x8DD0", length=len(BODY)).encode() + BODY
WRITTEN = _ANSWER.format(etag=MD5.hexdigest(), length=0).encode()


class _Stub(asyncio.Protocol):
    """Answers every GET with one object, everything else as if it were written."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._held = b""

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n") + 4) > 3:  # noqa: PLR2004 - found
            head = self._held[:end].lower()
            at = head.find(b"content-length:")
            end += int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._held) < end:
                return
            self._held = self._held[end:]
            self._transport.write(READ if head.startswith(b"get") else WRITTEN)


def _serve(listening: socket.socket) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_Stub, sock=listening)
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def stub() -> Iterator[str]:
    """The stub's URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = multiprocessing.get_context("fork").Process(target=_serve, args=(listening,), daemon=True)
        process.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            process.terminate()
            process.join()


@asynccontextmanager
async def runtime(folder: Path, url: str) -> AsyncIterator[PairRuntime]:
    """A pair whose both sides are the stub."""
    environment = {"BLOB": f"BlobEndpoint={url}/account;SharedAccessSignature=sv=1&sig=2", "KEY": "key", "SECRET": "secret"}
    file = folder / "federation.toml"
    file.write_text(
        f'[redis]\nurl = "embedded"\ndirectory = "{folder}/redis"\n[[pair]]\nname = "bench"\n'
        f'[pair.blob]\naccount_url = "{url}/account"\ncontainer = "c"\nconnection_string_env = "BLOB"\n'
        f'[pair.vast]\nendpoint = "{url}"\nbucket = "b"\naccess_key_env = "KEY"\nsecret_key_env = "SECRET"\n'
    )
    os.environ.update(environment)
    settings = load(file, environment)
    configure_logging(settings.log, log_file=folder / "decisions.jsonl", quiet=True)
    async with open_pair(settings, settings.pair[0]) as opened:
        yield opened


def key_of(number: int) -> str:
    """A name of everyday length."""
    return f"department/project-{number % 97:02d}/part-{number:08d}.parquet"


async def by_worker(pair: PairRuntime) -> None:
    """As after a scan: every key is marked, the worker reads, writes, and records what was agreed."""
    at = Stamp(pair.context.clock.now_us() - 3_600_000_000, 1, StampOrigin.EVENT)
    done = asyncio.Event()

    def count(_: DecisionLine) -> None:
        if pair.worker.stats.outcomes["settled"] == COUNT:
            done.set()

    pair.worker.stats.on_line = count
    worker = asyncio.create_task(pair.worker.run())
    changes = [Change(key_of(number), Side.BLOB, Source.RECONCILER, etag="0x8DD0", at=at) for number in range(COUNT)]
    for start in range(0, COUNT, 1_000):
        await pair.sink.mark(changes[start : start + 1_000])
    await done.wait()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def by_lanes(one: Callable[[int], Awaitable[object]]) -> None:
    """*one* for every number, as many at once as the worker has places."""
    numbers = iter(range(COUNT))

    async def work() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(work() for _ in range(LANES)))


async def by_stores(pair: PairRuntime) -> None:
    """The same two calls to the stores, without gates, decisions and Redis."""
    blob, vast = pair.context.stores[Side.BLOB], pair.context.stores[Side.VAST]
    metadata = Metadata(content_type="application/octet-stream")
    stamp = OriginStamp(Side.BLOB, "0x8DD0", Stamp(1_700_000_000_000_000, 1), MD5.hexdigest(), "k" * 22)

    async def one(number: int) -> None:
        reader = await blob.open(key_of(number))
        await vast.put(key_of(number), await reader.read(), metadata, stamp=stamp, expected_etag=None)
        await reader.close()

    await by_lanes(one)


async def by_lane(url: str) -> None:
    """Requests of the same size over the HTTP lane, nothing computed for them."""
    lane = HttpLane(Side.BLOB)
    headers = {"x-ms-version": "2025-11-05", "Authorization": "x" * 200, "If-None-Match": "*", "x-amz-meta-origin": "x" * 150}

    async def one(number: int) -> None:
        await lane.call("GET", f"{url}/account/c/{key_of(number)}?sv=1&sig=2", {"x-ms-version": "2025-11-05"})
        await lane.call("PUT", f"{url}/b/{key_of(number)}", headers, BODY)

    await by_lanes(one)
    await lane.close()


async def measured(name: str, steps: Awaitable[None]) -> float:
    """Processor time an object, in microseconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    await steps
    spent = (time.process_time() - cpu) * 1_000_000 / COUNT
    print(f"{name}: {spent:.0f} us of our CPU an object, {COUNT / (time.perf_counter() - wall):.0f} objects/s")
    return spent


async def main() -> None:
    """Print the figures."""
    profile = cProfile.Profile()
    with stub() as url, tempfile.TemporaryDirectory() as folder:
        async with runtime(Path(folder), url) as pair:
            await pair.state.put_note("union", b"")
            lane = await measured("bare HTTP lane", by_lane(url))
            stores = await measured("stores", by_stores(pair))
            if "--profile" in sys.argv:
                profile.enable()
            engine = await measured("worker", by_worker(pair))
            profile.disable()
    print(f"worker to bare lane: {engine / lane:.1f}; to stores: {engine / stores:.1f}")
    if "--profile" in sys.argv:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)


if __name__ == "__main__":
    asyncio.run(main())
