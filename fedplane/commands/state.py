"""``fedplane state``: the pair's records as a file, back from it, and whether they fit together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from federation.clock import SystemClock
from federation.errors import UsageError
from federation.settings import PairSettings, Settings
from federation.state.checking import Checked, check
from federation.state.importing import filling, import_lines, require_fillable
from federation.state.portable import Importer, export
from federation.state.redis_state import RedisState
from federation.wiring import open_state
from fedplane import exit_codes
from fedplane.commands.common import ConfigOption, JsonOption, PairOption, only, read_settings
from fedplane.commands.listing import redis_of
from fedplane.output import emit, table
from fedplane.patience import patiently

app = typer.Typer(help="The pair's records in Redis: export, import, check.", no_args_is_help=True)
FileArgument = Annotated[Path, typer.Argument(help="File of lines of JSON.")]


@asynccontextmanager
async def _opened(settings: Settings, pair: PairSettings) -> AsyncIterator[RedisState]:
    async with open_state(settings, pair) as state:
        yield redis_of(state)


@app.command("export")
def export_state(file: FileArgument, config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False) -> None:
    """Write base records, cursors, dirty keys, parked, held, conflicts, halts, notes and dead letters to FILE."""
    settings = read_settings(config)
    lines = asyncio.run(_export(settings, only(settings, pair), file))
    emit({"lines": lines, "file": str(file)}, f"{lines} lines written to {file}.", as_json=as_json)


async def _export(settings: Settings, pair: PairSettings, file: Path) -> int:
    count = 0
    async with _opened(settings, pair) as state:
        if not await state.open(create=False):
            raise UsageError(f"There is no state of pair {pair.name!r} to export.", reason="no_state")
        try:
            with file.open("xb") as out:
                async for line in export(state.calls, state.layout, now_us=SystemClock().now_us()):
                    out.write(line)
                    count += 1
        except FileExistsError:
            raise UsageError(f"{file} is there already; name another file.", reason="file_exists") from None
        except OSError as error:
            raise UsageError(f"Cannot write {file}: {error.strerror}.", reason="bad_file") from None
    return count


@app.command("import")
def import_state(file: FileArgument, config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False) -> None:
    """Take an export into an empty state; worker.shards and worker.buckets may be others than where it came from.

    One that was cut short is repeated; until one came to its end, nothing else uses the state.
    """
    settings = read_settings(config)
    counts = asyncio.run(_import(settings, only(settings, pair), file))
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nothing"
    emit({"imported": counts}, f"Imported: {told}. The next `fedplane run` begins with a whole scan.", as_json=as_json)


async def _import(settings: Settings, pair: PairSettings, file: Path) -> dict[str, int]:
    clock = SystemClock()
    async with _opened(settings, pair) as state:
        await require_fillable(state)
        try:
            with file.open("rb") as lines:
                Importer(state.calls, state.layout).rehearse(lines)
                async with AsyncExitStack() as stack:
                    begin = partial(filling, state, now_us=clock.now_us())
                    hold = await patiently(lambda: stack.enter_async_context(begin()), clock)
                    return await import_lines(state, lines, hold)
        except OSError as error:
            raise UsageError(f"Cannot read {file}: {error.strerror}.", reason="bad_file") from None


@app.command("check")
def check_state(config: ConfigOption = None, pair: PairOption = "", as_json: JsonOption = False) -> None:
    """Tell whether the records fit together; nothing is changed. Exit status 1 when they do not."""
    settings = read_settings(config)
    checked = asyncio.run(_check(settings, only(settings, pair)))
    emit(checked, _text(checked), as_json=as_json)
    if checked.faults:
        raise typer.Exit(exit_codes.PROBLEMS)


async def _check(settings: Settings, pair: PairSettings) -> Checked:
    async with _opened(settings, pair) as state:
        if not await state.open(create=False):
            raise UsageError(f"There is no state of pair {pair.name!r} to check.", reason="no_state")
        return await check(state.calls, state.layout)


def _text(checked: Checked) -> str:
    seen = f"{checked.pair}: {checked.shards} shards, {checked.records} base records, {checked.dirty} dirty keys"
    if not checked.faults:
        return f"{seen}: all fits together."
    rows = [(str(one.shard), one.kind, str(one.count), ", ".join(one.keys)) for one in checked.faults]
    advice = "A whole scan (`fedplane reconcile`) finds what a key's records no longer tell."
    return "\n".join([f"{seen}:", table([("shard", "fault", "how many", "keys"), *rows]), advice])
