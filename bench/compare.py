"""The reconciler's comparison: rows a second of merge and drift, beside the floor of walking both listings; memory by row count.

python bench/compare.py            rows a second, listings and bases in memory
python bench/compare.py 10000000   peak memory of comparing that many synthetic keys, made page by page
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import AsyncIterator, Sequence

from federation.model import Base, ListEntry, Stamp
from federation.state.records import PackedBases, pack_base
from reconciler.drift import out_of_step
from reconciler.merge import Pages, in_pages, merge

ROWS = 400_000
BLOB_PAGE, VAST_PAGE = 5_000, 1_000
WRITTEN = Stamp(1_700_000_000_000_000)
ROUNDS = 3


def entry(number: int, side: str) -> ListEntry:
    """One object of a listing."""
    return ListEntry(f"dir-{number // 1000:05d}/file-{number:09d}", etag(number, side), 4096, WRITTEN)


def etag(number: int, side: str) -> str:
    """As the services write them."""
    return f"0x8DE{number:012X}" if side == "b" else f"{number:032x}"


def base(number: int) -> Base:
    """What both sides agreed on."""
    blob, vast = etag(number, "b"), etag(number, "v")
    return Base(blob, vast, vast, b"metadata", WRITTEN, 4096, vast_as_of_us=1_800_000_000_000_000)


async def pages(entries: Sequence[ListEntry], size: int) -> AsyncIterator[Sequence[ListEntry]]:
    """A listing in memory, as pages of a server."""
    for at in range(0, len(entries), size):
        yield entries[at : at + size]


async def singly(entries: Sequence[ListEntry]) -> AsyncIterator[ListEntry]:
    """A listing in memory, entry by entry, as ``ObjectStore.list`` gives it."""
    for one in entries:
        yield one


async def walked(*listings: Pages) -> int:
    """Both listings, one after the other, looking at each key: the floor."""
    count = 0
    for listing in listings:
        async for page in listing:
            for one in page:
                count += bool(one.key)
    return count // 2


async def compared(blob: Pages, vast: Pages, bases: Sequence[Base | None], *, decoded: bool = False) -> int:
    """Merged and compared with the bases; *decoded*: each record is decoded first."""
    at = differ = 0
    async for batch in merge(blob, vast):
        found = bases[at : at + len(batch)]
        differ += len(out_of_step(batch, list(found) if decoded else found))
        at += len(batch)
    assert differ == 0
    return at


async def streamed(rows: int) -> int:
    """As ``compared``, of keys that are made as they are needed."""

    async def made(side: str, size: int) -> AsyncIterator[Sequence[ListEntry]]:
        for at in range(0, rows, size):
            yield [entry(number, side) for number in range(at, min(at + size, rows))]

    at = differ = 0
    async for batch in merge(made("b", BLOB_PAGE), made("v", VAST_PAGE)):
        differ += len(out_of_step(batch, [base(number) for number in range(at, at + len(batch))]))
        at += len(batch)
    assert differ == 0
    return at


def speed() -> None:
    """Print rows a second, the best of some rounds."""
    blob, vast = [entry(number, "b") for number in range(ROWS)], [entry(number, "v") for number in range(ROWS)]
    shifted = vast[::2]
    bases = [base(number) for number in range(ROWS)]
    packed = PackedBases([pack_base(one) for one in bases])
    steps = {
        "walking both listings": lambda: walked(pages(blob, BLOB_PAGE), pages(vast, VAST_PAGE)),
        "compared, pages": lambda: compared(pages(blob, BLOB_PAGE), pages(vast, VAST_PAGE), bases),
        "compared, single entries": lambda: compared(in_pages(singly(blob), 1000), in_pages(singly(vast), 1000), bases),
        "compared, packed bases": lambda: compared(pages(blob, BLOB_PAGE), pages(vast, VAST_PAGE), packed),
        "compared, single entries and packed bases, as a scan has them": lambda: compared(
            in_pages(singly(blob), 1000), in_pages(singly(vast), 1000), packed
        ),
        "compared, each base decoded": lambda: compared(pages(blob, BLOB_PAGE), pages(vast, VAST_PAGE), packed, decoded=True),
        "merged only, every other key on one side": lambda: merged(pages(blob, BLOB_PAGE), pages(shifted, VAST_PAGE)),
    }
    rates = dict.fromkeys(steps, 0.0)
    for _ in range(ROUNDS):
        for name, step in steps.items():
            started = time.process_time()
            rates[name] = max(rates[name], asyncio.run(step()) / (time.process_time() - started))
    for name, rate in rates.items():
        print(f"{name}: {rate:,.0f} rows/s, ratio to the floor {rates['walking both listings'] / rate:.2f}")


async def merged(blob: Pages, vast: Pages) -> int:
    """Merged and no more."""
    return sum([len(batch) async for batch in merge(blob, vast)])


def memory(rows: int) -> None:
    """Print the peak of this process after comparing *rows*."""
    started = time.process_time()
    asyncio.run(streamed(rows))
    took = time.process_time() - started
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{rows:,} rows: peak RSS {peak_mib:.1f} MiB; {rows / took:,.0f} rows/s, most of it making the keys")


if __name__ == "__main__":
    if sys.argv[1:]:
        memory(int(sys.argv[1]))
    else:
        speed()
