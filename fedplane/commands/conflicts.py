"""``fedplane conflicts``: list, show and resolve."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from federation.errors import Reobserve, UsageError
from federation.ports import State
from federation.progress import ConflictRecord
from federation.settings import PairSettings, Settings
from federation.state.lists import records
from federation.sync.resolve import Verdict, resolve
from federation.wiring import open_pair
from fedplane.commands.common import ConfigOption, JsonOption, PairOption, chosen, only, read_settings
from fedplane.commands.listing import MOST, Kind, LimitOption, Listing, print_records, redis_of
from fedplane.commands.operator import with_state
from fedplane.output import emit, iso, plain, size
from operations import capabilities

app = typer.Typer(help="Conflicts: both versions, who won and why, and where the loser is.", invoke_without_command=True)
IdArgument = Annotated[str, typer.Argument(help="Conflict id, or its beginning.")]
TakeOption = Annotated[Verdict, typer.Option("--take", help="other: make the loser current; keep-both; drop: delete the loser.")]


@app.callback()
def list_conflicts(
    ctx: typer.Context, limit: LimitOption = MOST, config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False
) -> None:
    """List open conflicts, oldest first."""
    if ctx.invoked_subcommand is None:
        list_again(limit, config, pair, as_json=as_json)


@app.command("list")
def list_again(
    limit: LimitOption = MOST, config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False
) -> None:
    """List open conflicts, oldest first."""
    settings = read_settings(config)
    out = Listing(("id", "pair", "key", "result", "why", "decided", "loser kept as"), as_json)
    kind = Kind(ConflictRecord, lambda name, one: {"pair": name, "conflict": one}, _row)
    for one in chosen(settings, pair):
        asyncio.run(with_state(settings, one, lambda state, name=one.name: print_records(state, name, kind, limit, out)))  # type: ignore[misc]
    out.end("No open conflict.")


def _row(pair: str, one: ConflictRecord) -> tuple[str, ...]:
    return one.conflict_id, pair, one.key, f"{one.winner_side} won", one.reason, iso(one.at_us), kept_as(one)


def kept_as(one: ConflictRecord) -> str:
    """Where the loser of a conflict is, for people."""
    if one.loser_metadata is not None:
        return "metadata, in this record"
    if one.preserved_version_id:
        return f"{one.loser_side}:{plain(one.key)} version {one.preserved_version_id}"
    return f"{one.loser_side}:{plain(one.preserved_as)}"


@app.command("show")
def show(conflict: IdArgument, config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False) -> None:
    """Everything about one conflict."""
    settings = read_settings(config)
    one = asyncio.run(with_state(settings, only(settings, pair), lambda state: _find(state, conflict)))
    text = "\n".join(
        (
            f"conflict {one.conflict_id} on {plain(one.key)}, decided {iso(one.at_us)}: {one.winner_side} won, {one.reason}",
            f"  winner: written {iso(one.winner_written_us)}, etag {one.winner_etag or 'none (a delete)'}",
            f"  loser:  written {iso(one.loser_written_us)}, etag {one.loser_etag}, {size(one.loser_size_bytes)}",
            f"  loser kept as {kept_as(one)}",
            f"  resolve: fedplane conflicts resolve {one.conflict_id} --take other|keep-both|drop",
        )
    )
    emit(one, text, as_json=as_json)


@app.command("resolve")
def resolve_one(
    conflict: IdArgument, take: TakeOption, config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False
) -> None:
    """Carry out a person's word on one conflict."""
    settings = read_settings(config)
    changed = asyncio.run(_resolve(settings, only(settings, pair), conflict, take))
    text = f"resolved ({take.value})" + (
        f": {plain(changed)} was written, it is carried over by `fedplane run`" if changed else ""
    )
    emit({"resolved": conflict, "take": take.value, "changed_key": changed}, text, as_json=as_json)


async def _resolve(settings: Settings, pair: PairSettings, conflict: str, take: Verdict) -> str:
    async with open_pair(settings, pair, create=False) as runtime:
        record = await _find(runtime.state, conflict)
        await capabilities.know(runtime, probe_again=False)
        try:
            return await resolve(runtime.context, runtime.state, record, take)
        except Reobserve:
            raise UsageError(
                f"{record.key!r} changed at this moment; look again with `fedplane explain`, then repeat.", reason="moved"
            ) from None


async def _find(state: State, beginning: str) -> ConflictRecord:
    redis = redis_of(state)
    pieces = records(redis.calls, redis.layout, ConflictRecord)
    fitting = {one.conflict_id: one async for piece in pieces for one in piece if one.conflict_id.startswith(beginning)}
    found = list(fitting.values())
    if len(found) != 1:
        what = "no open conflict" if not found else f"{len(found)} conflicts"
        text = f"There is {what} with an id beginning {beginning!r}; see `fedplane conflicts`."
        raise UsageError(text, reason="no_such_conflict")
    return found[0]
