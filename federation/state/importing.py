"""An import fills a state of which its ``meta`` says that it is being filled, until all of it is there.

Meanwhile ``State.open`` refuses it, so nobody works on half a base. An import that was cut short is repeated, from any file and
for any number of shards: what the first one wrote is cleared away before.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import IO, Any

from federation.errors import RetryLater, UsageError
from federation.model import Side
from federation.progress import UNION_NOTE, union_value
from federation.state.layout import Layout
from federation.state.portable import Importer
from federation.state.redis_state import RedisState
from federation.state.schema import IMPORTING, check_schema, meta_of, new_meta

OWNED_SECONDS = 15.0
"""After which an import that was killed may be repeated."""
_TASK = "import"
_AT_ONCE = 500
_OF_PAIR = ("marks", "conflicts", "halts", "notes", "dead", "dead:tally", "renames", "deletes")
_OF_SHARD = ("due", "hint", "claimed", "parked", "held", "intent", "count", "seq", "marks")
Hold = Callable[[], Awaitable[None]]


async def import_lines(state: RedisState, lines: IO[bytes], hold: Hold) -> dict[str, int]:
    """Write all that the export *lines*, a file, holds; how many of each kind. Flat in memory: it is read twice.

    *hold* is awaited before each piece. Raises UsageError as ``Importer.run``.
    """
    importer = Importer(state.calls, state.layout)
    lines.seek(0)
    await importer.run(lines, hold)
    lines.seek(0)
    for changes in importer.dirty(lines):  # after everything else: a mark takes its key off the parked list
        await hold()
        await state.mark(changes)
    return importer.counts


async def require_fillable(state: RedisState) -> Layout | None:
    """The layout of a half-filled state, None when there is no state at all. Raises UsageError for one that is in use."""
    pair = state.layout.pair
    found = await meta_of(state.calls, state.layout)
    check_schema(pair, found)
    if "epoch" not in found:
        return None
    if IMPORTING not in found:
        raise _in_use(pair)
    return Layout(pair, int(found["shards"]), int(found["buckets"]))


@asynccontextmanager
async def filling(state: RedisState, *, now_us: int) -> AsyncIterator[Hold]:
    """Within the block the state may be filled; if the block ends well, it is whole. Gives what keeps others away from it.

    Raises UsageError when the state is in use, and RetryLater while another import fills it.
    """
    owner, meta = secrets.token_hex(8), state.layout.of_pair("meta")

    async def hold() -> None:
        if not await state.own(_TASK, owner=owner, ttl_seconds=OWNED_SECONDS):
            raise RetryLater(
                f"another import into the state of pair {state.layout.pair!r} is under way, or one was ended in the last "
                f"{OWNED_SECONDS:.0f} seconds",
                reason="state_importing",
            )

    await hold()
    try:
        half = await require_fillable(state)
        fields = [word for field in new_meta(state.layout, now_us=now_us).items() for word in field]
        if not await state.calls.run("begin_import", [meta], [owner, *fields]):
            raise _in_use(state.layout.pair)
        if half is not None:
            await _clear(state, half, hold)
            await state.calls.pipe([("HSET", meta, "shards", state.layout.shards, "buckets", state.layout.buckets)])
        await state.put_note(UNION_NOTE, union_value())
        yield hold
        await hold()
        # Not what another has begun since: this process may have been stopped for longer than its word holds.
        await state.calls.run("drop_note", [meta], [IMPORTING, owner])
    finally:
        with contextlib.suppress(RetryLater):  # then it grows old by itself
            await state.disown(_TASK, owner=owner)


async def _clear(state: RedisState, half: Layout, hold: Hold) -> None:
    """Drop all that an import may have written under the layout *half*."""
    [sources] = await state.calls.pipe([("HKEYS", half.of_pair("marks"))])
    piece: list[tuple[Any, ...]] = []
    for name in _names(half, [source.decode() for source in sources]):
        piece.append(("UNLINK", name))
        if len(piece) == _AT_ONCE:
            await state.calls.pipe(piece)
            await hold()
            piece.clear()
    await state.calls.pipe(piece)


def _names(layout: Layout, sources: list[str]) -> Iterator[str]:
    for shard in range(layout.shards):
        yield from (layout.of_shard(shard, name) for name in _OF_SHARD)
        yield from (layout.since(shard, side) for side in Side)
        yield from layout.buckets_of(shard)
    yield from (layout.of_pair(f"cursor:{source}") for source in sources)
    yield from (layout.of_pair(name) for name in _OF_PAIR)  # last: one of them says which cursors there are


def _in_use(pair: str) -> UsageError:
    return UsageError(
        f"Pair {pair!r} has a state in Redis already; an export goes into an empty one only. Nothing was changed.",
        reason="state_not_empty",
    )
