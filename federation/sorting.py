"""Sort a listing of any length in bounded memory: sorted runs on disk, merged. For servers that list in an order of their own."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import IO

import msgspec

from federation.model import ListEntry

RUN_ENTRIES = 50_000
"""Entries sorted in memory at a time (about 15 MB)."""
MOST_RUNS = 64
"""Runs merged at once; of more, the first ones are merged into one (file handles are bounded too)."""
_BLOCK = 512
_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(list[ListEntry])


async def sort_entries(entries: AsyncIterator[ListEntry], *, run_entries: int = RUN_ENTRIES) -> AsyncIterator[ListEntry]:
    """All *entries* in ascending order of the UTF-8 bytes of their keys; of entries of one key, the one read last.

    Nothing is yielded before everything was read; what *entries* raises is raised. The files have no names, so they are gone
    with the process, however it ends. Spilling a run blocks the loop for some tens of milliseconds.
    """
    with ExitStack() as stack:
        runs: list[IO[bytes]] = []
        run: list[ListEntry] = []
        async for entry in entries:
            run.append(entry)
            if len(run) >= run_entries:
                runs.append(_spill(stack, _sorted(run)))
                run = []
                if len(runs) >= MOST_RUNS:
                    runs = [_spill(stack, _merge([_read(file) for file in runs]))]
        for entry in _merge([*(_read(file) for file in runs), iter(_sorted(run))]):
            yield entry


def _key(entry: ListEntry) -> str:
    return entry.key


def _sorted(run: list[ListEntry]) -> list[ListEntry]:
    return sorted(run, key=_key)


def _spill(stack: ExitStack, entries: Iterable[ListEntry]) -> IO[bytes]:
    file = stack.enter_context(tempfile.TemporaryFile(prefix="fedplane-sort-"))  # noqa: SIM115 - closed with *stack*
    remaining = iter(entries)
    while block := list(islice(remaining, _BLOCK)):
        packed = _ENCODE(block)
        file.write(len(packed).to_bytes(4, "big") + packed)
    return file


def _read(file: IO[bytes]) -> Iterator[ListEntry]:
    file.seek(0)
    while head := file.read(4):
        yield from _DECODE.decode(file.read(int.from_bytes(head, "big")))
    file.close()


def _merge(runs: list[Iterator[ListEntry]]) -> Iterator[ListEntry]:
    """Of equal keys the later run's entry is the last, and within a run the later entry (both sorts are stable)."""
    held: ListEntry | None = None
    for entry in heapq.merge(*runs, key=_key):
        if held is not None and held.key != entry.key:
            yield held
        held = entry
    if held is not None:
        yield held
