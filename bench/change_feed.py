"""Change feed records a second: this reader, the official one and a bare fastavro loop over the same chunks, from one Azurite.

python bench/change_feed.py [--official-limit 20000] [--rounds 3]

Each contestant runs in a process of its own, so that memory is its own. The rates of a round are measured one after the other;
told is the best of the rounds. The official reader stops after ``--official-limit`` records: its rate does not depend on how many
chunks there are, only on their size.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import fastavro
from azure.storage.blob import ContainerClient
from azure.storage.blob.changefeed import ChangeFeedClient

from federation.payloads.change_feed import parse
from federation.payloads.event_grid import BlobScope
from federation.sources.change_feed_chunk import Piece, Records
from federation.sources.change_feed_layout import CONTAINER
from federation.sources.change_feed_position import start_at
from federation.sources.change_feed_reader import FeedReader
from federation.stores.change_feed import AzureChangeFeed
from fedplane.localstack.azurite import ACCOUNT, KEY, azurite
from fedplane.localstack.info import TOOLS_DIR
from fedplane.localstack.process import free_port
from tests.feed.writer import Feed, fresh_container, hour, record

BLOCK = 100
SCOPE = BlobScope("", "datasets", "", lambda name: name)


def dense(records: int = 100_000, segments: int = 12, shards: int = 4) -> Feed:
    """Few segments of large chunks."""
    return _feed(segments, shards, records // segments // shards)


def sparse(segments: int = 720, records: int = 10) -> Feed:
    """A month of an account that is hardly used."""
    return _feed(segments, 1, records)


def _feed(segments: int, shards: int, chunk_records: int) -> Feed:
    feed = Feed()
    feed.placeholder()
    feed.index(hour(segments))
    number = 0
    for segment in range(segments):
        feed.segment(hour(segment), shards=shards, finalized=True)
        for shard in range(shards):
            for first in range(0, chunk_records, BLOCK):
                count = min(BLOCK, chunk_records - first)
                times = [hour(segment) + timedelta(seconds=(first + one) % 3600) for one in range(count)]
                named = [f"department/project-{shard}/run-{number + one:08d}/part.parquet" for one in range(count)]
                feed.append(hour(segment), map(record, range(number, number + count), named, times), shard=shard)
                number += count
    return feed


# ------------------------------------------------------------------------------------------------------------ contestants


async def _ours(text: str, *, to_changes: bool) -> int:
    def make(records: Records) -> int:
        return len(parse(records, SCOPE)[0].changes) if to_changes else len(records)

    blobs = AzureChangeFeed(account_url="", connection_string=text, credential=None)
    reader = FeedReader(blobs, make)
    count = 0
    async for item in reader.sweep(start_at(0)):
        count += item.payload if isinstance(item, Piece) else 0
    reader.close()
    await blobs.close()
    return count


def ours(text: str, _: int) -> int:
    """All records, decoded."""
    return asyncio.run(_ours(text, to_changes=False))


def changes(text: str, _: int) -> int:
    """All records, decoded and parsed to what is marked."""
    return asyncio.run(_ours(text, to_changes=True))


def bare(text: str, _: int) -> int:
    """Every chunk downloaded whole and run through fastavro, one after the other; nothing else is read."""
    count = 0
    with ContainerClient.from_connection_string(text, CONTAINER) as container:
        for name in container.list_blob_names(name_starts_with="log/"):
            data = container.download_blob(name).readall()
            for _record in fastavro.reader(io.BytesIO(data)):
                count += 1
    return count


def official(text: str, limit: int) -> int:
    """azure-storage-blob-changefeed."""
    count = 0
    for _ in ChangeFeedClient.from_connection_string(text).list_changes():
        count += 1
        if count == limit:
            break
    return count


CONTESTANTS = {"ours": ours, "changes": changes, "bare": bare, "official": official}


def child(name: str, text: str, limit: int) -> None:
    """Run one and print its figures."""
    started, cpu = time.perf_counter(), time.process_time()
    count = CONTESTANTS[name](text, limit)
    wall = time.perf_counter() - started
    # Not ru_maxrss: that begins with what the parent had.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    rss = int(peak.split()[1]) / 1024
    print(json.dumps({"records": count, "wall": wall, "cpu": time.process_time() - cpu, "rss_mib": rss}))


# ------------------------------------------------------------------------------------------------------------------ run


def measure(title: str, feed: Feed, text: str, *, rounds: int, limit: int) -> None:
    """Fill the container, let all run, print."""
    with fresh_container(text) as container:
        feed.upload(container)
    chunks = [len(data) for name, data in feed.blobs.items() if name.endswith(".avro")]
    print(f"{title}: {len(chunks)} chunks of {sum(chunks) / len(chunks) / 1e6:.2f} MB")
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name in CONTESTANTS:
            command = [sys.executable, __file__, "--child", name, "--official-limit", str(limit)]
            done = subprocess.run(command, env={**os.environ, "FEED": text}, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
            told = json.loads(done.stdout)
            told["rate"] = told["records"] / told["wall"]
            if name not in best or told["rate"] > best[name]["rate"]:
                best[name] = told
    for name, told in best.items():
        each = told["cpu"] / told["records"] * 1e6
        print(
            f"  {name:9s}{told['records']:7.0f} records in {told['wall']:6.2f} s: {told['rate']:7.0f}/s, "
            f"{each:6.1f} us CPU a record, peak RSS {told['rss_mib']:.0f} MiB"
        )
    rate = {name: told["rate"] for name, told in best.items()}
    print(
        f"  ratios: to the official reader {rate['ours'] / rate['official']:.1f}, "
        f"to the bare loop {rate['ours'] / rate['bare']:.2f};"
        f" parsed to changes {rate['changes'] / rate['official']:.1f} and {rate['changes'] / rate['bare']:.2f}"
    )


async def main(rounds: int, limit: int) -> None:
    """Both feeds, on an emulator of our own."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        server = await azurite("blob", port, tools=TOOLS_DIR, state_dir=Path(folder))
        await server.start()
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};"
        try:
            for title, feed in (("dense", dense()), ("sparse", sparse())):
                await asyncio.to_thread(measure, title, feed, text, rounds=rounds, limit=limit)
        finally:
            await server.stop()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--child", choices=CONTESTANTS)
    arguments.add_argument("--official-limit", type=int, default=20_000)
    arguments.add_argument("--rounds", type=int, default=2)
    given = arguments.parse_args()
    if given.child:
        child(given.child, os.environ["FEED"], given.official_limit)
    else:
        asyncio.run(main(given.rounds, given.official_limit))
