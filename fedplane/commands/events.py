"""``fedplane events``: what could not be delivered is marked after all, and what could not be read is listed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
import typer

from federation.clock import SystemClock
from federation.errors import UsageError
from federation.payloads import Malformed, Parsed
from federation.payloads.event_grid import parse
from federation.ports import State
from federation.progress import DeadLetter, DeadTally
from federation.settings import PairSettings, Settings
from federation.sources.build import blob_scope
from federation.wiring import open_state
from fedplane import exit_codes
from fedplane.commands.common import ConfigOption, JsonOption, PairOption, chosen, read_settings, real_keys
from fedplane.commands.operator import with_state
from fedplane.output import emit, iso, plain, size, table
from operations.heartbeat import tell_clocks
from reconciler.wanted import ask, coalesce

app = typer.Typer(help="Events that did not arrive, or could not be read.", no_args_is_help=True)
_NAMED = 20


class Replayed(msgspec.Struct, kw_only=True):
    """What became of the undelivered events of one pair."""

    pair: str
    dry_run: bool
    blobs: int = 0
    named: int = 0
    """Changes of this pair that they told of."""
    marked: int = 0
    echoes: int = 0
    """Of these, what was agreed on already."""
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    ignored: Counter[str] = msgspec.field(default_factory=Counter)
    scans: tuple[str, ...] = ()
    """Beginnings of keys that a running process is asked to scan."""
    unreadable: int = 0
    unreadable_names: list[str] = msgspec.field(default_factory=list)
    """The first of them."""

    def parsed(self, found: Parsed) -> None:
        """Count one blob."""
        self.named += len(found.changes)
        self.refused += found.refused
        self.ignored += found.ignored
        self.scans = coalesce({*self.scans, *found.scan_prefixes})

    def cannot_read(self, name: str) -> None:
        """Count one that holds no events."""
        self.unreadable += 1
        if len(self.unreadable_names) < _NAMED:
            self.unreadable_names.append(name)

    def text(self) -> str:
        """For people."""
        did = "nothing was marked (dry run)" if self.dry_run else f"{self.marked} marked, {self.echoes} known already"
        lines = [f"pair {self.pair}: {self.blobs} blobs, {self.named} changes; {did}"]
        lines += [f"  refused, {reason}: {count}" for reason, count in sorted(self.refused.items())]
        lines += [f"  ignored, {reason}: {count}" for reason, count in sorted(self.ignored.items())]
        lines += [
            f"  {'to scan' if self.dry_run else 'scan asked for'}: {plain(prefix) or 'the whole pair'}" for prefix in self.scans
        ]
        lines += [f"  holds no events: {plain(name)}" for name in self.unreadable_names]
        return "\n".join(lines)


@app.command("replay")
def replay(
    container: Annotated[str, typer.Option("--container", help="Else pair.blob.events.dead_letter_container.")] = "",
    prefix: Annotated[str, typer.Option("--prefix", help="Only blobs whose names begin so.", callback=real_keys)] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what they name; mark nothing.")] = False,
    config: ConfigOption = None,
    pair: PairOption = "",
    as_json: JsonOption = False,
) -> None:
    """Mark what Event Grid's dead letters tell of. Marks are hints, so doing it twice does no harm; the blobs are left there."""
    settings = read_settings(config)
    found = [asyncio.run(_replay(settings, one, container, prefix, dry_run=dry_run)) for one in chosen(settings, pair)]
    emit(found, "\n".join(one.text() for one in found), as_json=as_json)
    if any(one.unreadable for one in found):
        raise typer.Exit(exit_codes.PROBLEMS)


async def _replay(settings: Settings, pair: PairSettings, container: str, prefix: str, *, dry_run: bool) -> Replayed:
    from federation.sources.event_grid_dead import dead_blobs  # noqa: PLC0415 - the SDK is slow to import

    place = container or pair.blob.events.dead_letter_container
    if not place:
        text = f"Where pair {pair.name!r} has its dead letters is not known."
        raise UsageError(f"{text} Say --container, or set pair.blob.events.dead_letter_container.", reason="no_container")
    done = Replayed(pair=pair.name, dry_run=dry_run)
    scope, clock = blob_scope(pair), SystemClock()
    async with _credential(pair) as credential, open_state(settings, pair, clock) as state:
        await state.open(create=False)
        await tell_clocks(state, clock.now_us())
        async for blob in dead_blobs(pair.blob, credential, place, prefix):
            done.blobs += 1
            try:
                found = parse(blob.body, scope) if blob.body is not None else None
            except Malformed:
                found = None
            if found is None:
                done.cannot_read(blob.name)
                continue
            done.parsed(found)
            if not dry_run and found.changes:
                result = await state.mark(found.changes)
                done.marked += result.marked
                done.echoes += result.echoes
        for wanted in () if dry_run else done.scans:
            await ask(state, wanted, now_us=clock.now_us())
    return done


@asynccontextmanager
async def _credential(pair: PairSettings) -> AsyncIterator[object | None]:
    if pair.blob.connection_string_env:
        yield None
        return
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - only where it is needed

    async with DefaultAzureCredential() as credential:
        yield credential


@app.command("dead")
def dead(
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many of a pair, the newest.")] = 50,
    config: ConfigOption = None,
    pair: PairOption = "",
    as_json: JsonOption = False,
) -> None:
    """List records of any source that could not be read, oldest first; with --json as they came, in base64."""

    async def step(state: State) -> tuple[list[DeadLetter], DeadTally]:
        return (await state.dead_letters())[-limit:], (await state.backlog()).dead

    settings = read_settings(config)
    found = [(one.name, *asyncio.run(with_state(settings, one, step))) for one in chosen(settings, pair)]
    rows = [(name, iso(one.at_us), one.source, size(len(one.raw)), one.reason) for name, letters, _ in found for one in letters]
    lines = [table([("pair", "when", "source", "size", "why"), *rows])] if rows else ["No record is kept that could not be read."]
    lines += [f"{name}: {tally.kept} kept, {tally.dropped} older ones dropped" for name, _, tally in found if tally.dropped]
    payload = [{"pair": name, "kept": tally, "letters": letters} for name, letters, tally in found]
    emit(payload, "\n".join(lines), as_json=as_json)
