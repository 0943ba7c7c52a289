"""``fedplane changefeed``: look at the Blob change feed, follow it, and see or move the position up to which it is marked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from federation.clock import SystemClock
from federation.errors import RetryLater, UsageError
from federation.ports import State
from federation.progress import Cursor
from federation.settings import PairSettings
from federation.settings_feed import time_us
from federation.sources.build import blob_scope
from federation.sources.change_feed import NAME, options_digest
from federation.sources.change_feed_index import FeedIndex
from federation.sources.change_feed_layout import Index
from federation.sources.change_feed_position import FeedPosition, load, start_at
from fedplane.commands.common import ConfigOption, JsonOption, PairOption, only, read_settings
from fedplane.commands.operator import with_state
from fedplane.feed_view import FeedWindow, Wanted, feed_of, line, read_position, write_position
from fedplane.output import ago, emit, iso, table

app = typer.Typer(help="The Blob change feed: its records, and how far they are marked.", no_args_is_help=True)

EveryOption = Annotated[bool, typer.Option("--all", help="Records of every container of the account, not of the pair alone.")]
FromOption = Annotated[str, typer.Option("--from", help='"start", or a time such as 2026-11-21T10:00:00Z.')]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="So many records at most.")]


@app.command()
def show(
    since: FromOption = "start",
    until: Annotated[str, typer.Option("--to", help="Records of before this time.")] = "",
    limit: LimitOption = None,
    position: Annotated[
        Path | None, typer.Option("--position", help="Go on from the position in this file, and keep it there.")
    ] = None,
    every: EveryOption = False,
    config: ConfigOption = None,
    pair: PairOption = "",
    as_json: JsonOption = False,
) -> None:
    """Print records, one a line, in the order of the feed's segments; --json prints them whole. Marks nothing."""
    chosen = only(read_settings(config), pair)
    wanted = Wanted(_time(since, "--from"), _time(until, "--to") if until else None, every)
    asyncio.run(_show(chosen, wanted, limit, position, as_json=as_json))


@app.command()
def tail(
    since: Annotated[str, typer.Option("--from", help='"now", "start", or a time.')] = "now",
    limit: LimitOption = None,
    every: EveryOption = False,
    config: ConfigOption = None,
    pair: PairOption = "",
    as_json: JsonOption = False,
) -> None:
    """Print records as they are published, until interrupted; the service publishes about once a minute. Marks nothing."""
    chosen = only(read_settings(config), pair)
    from_us = SystemClock().now_us() if since == "now" else _time(since, "--from")
    asyncio.run(_tail(chosen, Wanted(from_us, every=every), limit, as_json=as_json))


@app.command()
def cursor(config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False) -> None:
    """The position up to which records are marked, who reads, and what the feed's index says."""
    settings = read_settings(config)
    chosen = only(settings, pair)
    found, owner = asyncio.run(with_state(settings, chosen, _cursor))
    index = asyncio.run(_index(chosen))
    now_us = SystemClock().now_us()
    at = load(found.position) if found is not None else None
    told = {
        "pair": chosen.name,
        "position": at.dump() if at is not None else None,
        "moved_us": found.updated_us if found is not None else None,
        "reader": owner,
        "last_consumable_us": index.last_consumable_us,
        "index_modified_us": index.modified_us,
    }
    moved = f"moved {ago((now_us - found.updated_us) / 1_000_000)} ago" if found is not None else "never moved"
    lines = [
        f"pair {chosen.name}: {_position_text(at)}",
        f"  {moved}, read by {owner or 'nobody'}",
        f"  the feed: may be read up to the segment of {iso(index.last_consumable_us)}, index written {iso(index.modified_us)}",
    ]
    if at is not None and at.chunks:
        rows = [(name, str(one.offset), str(one.index)) for name, one in sorted(at.chunks.items())]
        lines.append(table([("chunk", "offset", "record"), *rows]))
    emit(told, "\n".join(lines), as_json=as_json)


@app.command()
def rewind(
    to: Annotated[str, typer.Option("--to", help='"start", or a time such as 2026-11-21T10:00:00Z.')],
    config: ConfigOption = None,
    pair: PairOption = "",
    as_json: JsonOption = False,
) -> None:
    """Mark the records of a time and later again. Safe while a process reads: it goes on from there within one look."""
    settings = read_settings(config)
    chosen = only(settings, pair)
    target = start_at(_time(to, "--to"))
    before = asyncio.run(with_state(settings, chosen, lambda state: _rewind(state, chosen, target)))
    told = {"pair": chosen.name, "from": before.dump() if before is not None else None, "to": target.dump()}
    where = f"records of {iso(target.from_us)} and later" if target.from_us else "all records that the feed still holds"
    if chosen.blob.change_feed.enabled:
        reader = "a running `fedplane run` does it"
    else:
        reader = f"once pair.blob.change_feed.enabled is true for pair {chosen.name!r}: now nobody reads the feed"
    emit(told, f"{where} will be marked again; {reader}.", as_json=as_json)


def _time(text: str, option: str) -> int:
    """Microseconds since 1970 UTC; 0 for the feed's beginning. Raises UsageError."""
    try:
        return 0 if text == "start" else time_us(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}.", reason="bad_time") from None


async def _show(pair: PairSettings, wanted: Wanted, limit: int | None, file: Path | None, *, as_json: bool) -> None:
    kept = read_position(file) if file is not None else None
    async with feed_of(pair) as blobs:
        window = FeedWindow(blobs, pair, wanted, kept)
        async for record in window.records(limit):
            print(line(record, as_json=as_json), flush=file is not None)
        if file is not None:
            write_position(file, window.position)


async def _tail(pair: PairSettings, wanted: Wanted, limit: int | None, *, as_json: bool) -> None:
    left, clock = limit, SystemClock()
    async with feed_of(pair) as blobs:
        window = FeedWindow(blobs, pair, wanted)
        while left is None or left > 0:
            async for record in window.records(left):
                print(line(record, as_json=as_json), flush=True)
                left = left - 1 if left is not None else None
            if left is None or left > 0:
                await clock.sleep(pair.blob.change_feed.poll_seconds)


async def _cursor(state: State) -> tuple[Cursor | None, str]:
    return await state.cursor(NAME), (await state.owners(NAME)).get(NAME, "")


async def _index(pair: PairSettings) -> Index:
    async with feed_of(pair) as blobs:
        return await FeedIndex(blobs).index()


async def _rewind(state: State, pair: PairSettings, target: FeedPosition) -> FeedPosition | None:
    """Compare-and-set, so that a reader that moves meanwhile is not overtaken unseen. Raises RetryLater."""
    found = await state.cursor(NAME)
    digest = options_digest(pair.identity["blob account"], blob_scope(pair))
    moved = Cursor({**target.dump(), "rewound": 1}, digest, SystemClock().now_us())
    if not await state.move_cursor(NAME, found, moved):
        raise RetryLater("The reader moved the cursor at this moment; nothing was changed. Say it again.", reason="cursor_moved")
    return load(found.position) if found is not None else None


def _position_text(at: FeedPosition | None) -> str:
    if at is None:
        return "nothing was read yet; reading begins at pair.blob.change_feed.from"
    done = f"segments up to {iso(at.done_us)} are done" if at.done_us else "from the feed's beginning"
    return f"{done}, {len(at.chunks)} chunks open, newest record {iso(at.newest_us)}, complete as of {iso(at.as_of_us)}"
