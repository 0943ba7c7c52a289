"""The reconciler's comparison: rows a second of merge and drift, beside the floor of walking both listings.

python bench/compare.py
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator

from federation.model import Base, ListEntry, Stamp
from reconciler.drift import drift
from reconciler.merge import merge

ROWS = 200_000


def entry(number: int, side: str) -> ListEntry:
    """One object of a listing."""
    return ListEntry(f"dir-{number // 1000:05d}/file-{number:09d}", f"{side}{number:016x}", 4096, Stamp(1_700_000_000_000_000))


async def listing(side: str) -> AsyncIterator[ListEntry]:
    """A listing of all objects."""
    for number in range(ROWS):
        yield entry(number, side)


async def floor() -> int:
    """Both listings, one after the other, and nothing else."""
    count = 0
    for side in ("b", "v"):
        async for _ in listing(side):
            count += 1
    return count // 2


async def compared() -> int:
    """Merged and compared with a base."""
    count = differ = 0
    async for row in merge(listing("b"), listing("v")):
        base = Base(blob_etag=f"b{count:016x}", vast_etag=f"v{count:016x}", size_bytes=4096, vast_as_of_us=1_800_000_000_000_000)
        differ += drift(row, base) is not None
        count += 1
    assert differ == 0
    return count


def main() -> None:
    """Print the figures."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rates = {}
    for name, step in (("floor", floor), ("compared", compared)):
        started = time.perf_counter()
        rows = asyncio.run(step())
        rates[name] = rows / (time.perf_counter() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"walking both listings: {rates['floor']:.0f} rows/s; compared: {rates['compared']:.0f} rows/s")
    print(f"ratio to the floor {rates['floor'] / rates['compared']:.2f}; memory grew by {grown:.1f} MiB over {ROWS} rows")


if __name__ == "__main__":
    main()
