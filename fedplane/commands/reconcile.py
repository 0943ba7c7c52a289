"""``fedplane reconcile [--dry-run]``: compare both sides with the base now."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, NamedTuple

import msgspec
import typer

from federation.clock import SystemClock
from federation.errors import Halt, RetryLater
from federation.model import Side
from federation.ports import Clock
from federation.progress import Backlog
from federation.rules.decision import Action
from federation.settings import PairSettings, Settings
from federation.sync.plan import plan
from federation.telemetry import logger
from federation.wiring import PairRuntime, open_pair, open_state, require_options
from fedplane import exit_codes
from fedplane.commands.common import ConfigOption, JsonOption, PairOption, chosen, read_settings, real_keys
from fedplane.commands.reconcile_options import require_possible, require_together
from fedplane.commands.would_hold import would_hold
from fedplane.output import complain, emit, iso, plain, size
from fedplane.patience import patiently
from fedplane.progress import Tell, progress
from operations import capabilities
from operations.scanning import scanner_of
from reconciler.book import history as scan_history
from reconciler.report import Report
from reconciler.scan import Scanner
from reconciler.verify import Verified
from reconciler.verify import verify as verify_contents

_LOOK_SECONDS = 0.1
_STUCK_SECONDS = 60.0
_WAIT_SECONDS = 3600.0
_log = logger("fedplane.reconcile")


class Part(NamedTuple):
    """What of a pair is meant: what begins so, or these keys; else all of it."""

    prefix: str
    keys: tuple[str, ...]


class Outcome(msgspec.Struct, kw_only=True):
    """What one reconcile of one pair came to."""

    pair: str
    report: Report
    applied: dict[str, int]
    """What this process itself did, by outcome; another process may have done the rest."""
    joined_us: int = 0
    """When the scan had begun that was under way, or cut off, and that this one went on with; 0: there was none."""
    again: bool = False
    """That one could not tell how it was when this command began, so the pair was scanned once more: the report is of that."""
    outstanding: int
    """Keys still dirty when we stopped waiting, and those that were parked or held on the way."""
    halts: list[str] = []
    """Names of the pair's halts, whoever raised them and when: while there is one, nobody works on the pair."""


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print each decision and its reason; write nothing.")] = False,
    prefix: Annotated[str, typer.Option("--prefix", help="Only keys with this prefix.", callback=real_keys)] = "",
    key: Annotated[
        list[str] | None, typer.Option("--key", help="Only this key; may be given more than once.", callback=real_keys)
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option("--wait", min=0, help=f"Seconds to wait for the differences to be worked off; else {_WAIT_SECONDS:g}."),
    ] = None,
    verify: Annotated[str, typer.Option("--verify", help="`hash`: read all contents on both sides and compare them.")] = "",
    history: Annotated[bool, typer.Option("--history", help="Print the reports of the last scans; scan nothing.")] = False,
    config: ConfigOption = None,
    pair: PairOption = "",
    as_json: JsonOption = False,
) -> None:
    """Scan both sides now, mark every difference, and work until they are gone. May be interrupted and run again."""
    waits = wait is not None
    require_together(
        {"--history": history, "--dry-run": dry_run, "--verify": verify, "--key": key, "--prefix": prefix, "--wait": waits}
    )
    require_possible(key or [], prefix, verify)
    part = Part(prefix, tuple(key or ()))
    settings = read_settings(config)
    worst = exit_codes.OK
    for one in chosen(settings, pair):
        if history:
            asyncio.run(_history(settings, one, as_json=as_json))
        elif dry_run:
            worst = max(worst, asyncio.run(_show(settings, one, part, as_json=as_json)))
        elif verify:
            worst = max(worst, asyncio.run(_verify(settings, one, prefix, as_json=as_json)))
        else:
            outcome = asyncio.run(_reconcile(settings, one, part, _WAIT_SECONDS if wait is None else wait, quiet=as_json))
            emit(outcome, _text(outcome), as_json=as_json)
            worst = max(worst, _status(outcome))
    if worst:
        raise typer.Exit(worst)


def _status(outcome: Outcome) -> int:
    if outcome.halts:
        return exit_codes.HALTED
    return exit_codes.OK if outcome.report.complete and not outcome.outstanding else exit_codes.PROBLEMS


def _text(outcome: Outcome) -> str:
    nothing = "nothing to do" if not outcome.report.marked else "nothing: a running process did the work"
    if outcome.halts:
        nothing = "nothing: the pair is halted"
    did = ", ".join(f"{count} {name}" for name, count in sorted(outcome.applied.items())) or nothing
    rest = f"\n  still outstanding: {outcome.outstanding} keys (see `fedplane status`, `parked`, `held`)"
    joined = f"\n  went on with the scan of {iso(outcome.joined_us)}" if outcome.joined_us else ""
    joined += "; that had begun before it was asked for, so all was scanned once more" if outcome.again else ""
    halted = f"\n  HALTED {', '.join(outcome.halts)}: `fedplane status` says why and what ends it" if outcome.halts else ""
    return (
        f"pair {outcome.pair}\n{outcome.report.text()}{joined}\n  done here: {did}{rest if outcome.outstanding else ''}{halted}"
    )


class _CutShortError(RetryLater):
    """A scan that ended before its end, for a reason that passes; tried again, it goes on where it was kept."""

    def __init__(self, report: Report) -> None:
        text = f"the scan is incomplete: {report.error}"
        super().__init__(text, reason="scan_incomplete", after_seconds=report.after_seconds)
        self.report = report


async def _scan(scanner: Scanner, part: Part, known: int, tell: Tell, clock: Clock) -> Report:
    total = None if part.prefix else known or None
    why = "" if part.prefix or known else "; total not known before the first whole scan"
    furthest = 0

    async def once() -> Report:
        nonlocal furthest
        if part.keys:
            report = await scanner.scan_keys(part.keys)
        else:
            report = await scanner.scan(
                prefix=part.prefix,
                on_progress=lambda far: tell(far.rows, total, f"{far.marked:,} differences{why}"),
                resumes=True,
            )
        furthest = max(furthest, report.rows)
        if report.passing:
            raise _CutShortError(report)
        return report

    try:
        return await patiently(once, clock, lambda: furthest)
    except _CutShortError as short:
        return short.report


async def _compared(scanner: Scanner, part: Part, known: int, tell: Tell, clock: Clock) -> tuple[Report, int, bool]:
    """How it is now: the report, when the scan that it went on with had begun (0: it began one), whether it scanned once more.

    What was compared before this command began says nothing of now; but for a command that was cut off just now, whose asking
    this one repeats.
    """
    begun_us = clock.now_us()
    resumed = await patiently(scanner.cut_off, clock)
    report = await _scan(scanner, part, known, tell, clock)
    joined_us = report.started_us if report.scan and report.started_us < begun_us else 0
    again = report.complete and joined_us > 0 and not resumed
    if again:
        _log.warning("the scan under way had begun before: scanning once more", began=iso(joined_us))
        report = await _scan(scanner, part, known, tell, clock)
    return report, joined_us, again


async def _reconcile(settings: Settings, pair: PairSettings, part: Part, wait_seconds: float, *, quiet: bool) -> Outcome:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        runtime = await patiently(lambda: stack.enter_async_context(open_pair(settings, pair, clock)), clock)
        await patiently(lambda: capabilities.know(runtime, probe_again=False), clock)
        before = await patiently(runtime.state.backlog, clock)
        with progress(f"scanning {pair.name}", quiet=quiet) as tell:
            direct = settings.functions.event_grid
            scanner = scanner_of(runtime, settings.reconcile, yields=False, asked=True, direct=direct)
            report, joined_us, again = await _compared(scanner, part, before.objects, tell, clock)
        outstanding = 0
        if report.complete:
            # Leases decide who works: this process, or one that runs already.
            worker = asyncio.create_task(runtime.worker.run())
            try:
                with progress(f"applying to {pair.name}", quiet=quiet) as tell:
                    outstanding = await _worked_off(runtime, report, worker, wait_seconds, tell)
            finally:
                worker.cancel()
                await asyncio.gather(worker, return_exceptions=True)
        after = await patiently(runtime.state.backlog, clock)
        outstanding += max(0, after.parked - before.parked) + max(0, after.held - before.held)
        halts = {one.name for one in await patiently(runtime.state.halts, clock)}
        if report.halted:
            halts.add(report.halted)  # that halt may have lifted itself since; the scan is none for all that
        return Outcome(
            pair=pair.name,
            report=report,
            applied=dict(runtime.worker.stats.outcomes),
            joined_us=joined_us,
            again=again,
            outstanding=outstanding,
            halts=sorted(halts),
        )


def waits(backlog: Backlog, ahead_us: Mapping[Side, int], until_us: int) -> bool:
    """Whether a change of before *until_us*, by our clock, is not yet applied."""
    since = [backlog.waiting_since_us(side, ahead_us[side]) for side in Side]
    return any(at is not None and at <= until_us for at in since)


async def _worked_off(runtime: PairRuntime, report: Report, worker: asyncio.Task[None], wait_seconds: float, tell: Tell) -> int:
    """Wait until no change from before the scan's end is dirty; give up when nothing moves. Returns what is left."""
    until = time.monotonic() + wait_seconds
    moved_at, last, most = time.monotonic(), (-1, -1), 0
    while True:
        if worker.done():
            worker.result()
        backlog = await patiently(runtime.state.backlog, runtime.context.clock)
        if not waits(backlog, runtime.state.ahead_us, report.finished_us):
            return 0
        most = max(most, backlog.dirty)
        tell(most - backlog.dirty, most)
        now = time.monotonic()
        here = (backlog.dirty, runtime.worker.stats.outcomes.total())
        if here != last:
            moved_at, last = now, here
        halts = await patiently(runtime.state.halts, runtime.context.clock)
        if halts or now >= until or now - moved_at > _STUCK_SECONDS:
            return backlog.dirty
        await asyncio.sleep(_LOOK_SECONDS)


class _Foretold(msgspec.Struct):
    """What a dry run told so far: ``counts`` by action, ``deletes`` by the side they would be carried out on."""

    report: Report
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    deletes: Counter[Side] = msgspec.field(default_factory=Counter)
    waiting: Counter[Side] = msgspec.field(default_factory=Counter)
    """Of ``deletes``: those that are held already."""
    held: dict[Side, int] = msgspec.field(default_factory=dict)
    """Of ``deletes``: those that a run would hold."""
    halts: list[str] = msgspec.field(default_factory=list)
    assumed: tuple[Side, ...] = ()
    """Sides whose servers' capabilities are not known."""
    cut_short: bool = True


async def _show(settings: Settings, pair: PairSettings, part: Part, *, as_json: bool) -> int:
    """Tell what a run would do, and what it would refuse: then HALTED."""
    clock = SystemClock()
    told = _Foretold(Report(started_us=clock.now_us(), prefix=part.prefix))
    async with AsyncExitStack() as stack:
        runtime = await patiently(lambda: stack.enter_async_context(open_pair(settings, pair, clock, create=False)), clock)
        scanner = scanner_of(runtime, settings.reconcile, yields=False, looks_only=True)
        try:
            for halt in await patiently(runtime.state.halts, clock):
                told.halts.append(halt.name)
                emit({"pair": pair.name, "halt": halt}, f"HALTED {halt.name}: {halt.detail}", as_json=as_json)
            await patiently(lambda: require_options(runtime.state, pair), clock)
            told.assumed = await patiently(lambda: capabilities.recall(runtime), clock)
            await patiently(
                lambda: _foretell(runtime, scanner, told, part.keys, as_json=as_json), clock, lambda: told.report.resume
            )
            told.held = await patiently(
                lambda: would_hold(
                    runtime.state,
                    pair.rules.delete_budget,
                    told.deletes,
                    told.waiting,
                    whole=part == Part("", ()),
                    now_us=clock.now_us(),
                ),
                clock,
            )
            told.cut_short = False
        except Halt as error:
            told.halts.append(error.reason)
            complain(error, as_json=as_json)
        finally:
            _sum_up(pair.name, told, as_json=as_json)
    return exit_codes.HALTED if told.halts else exit_codes.OK


def _sum_up(pair: str, told: _Foretold, *, as_json: bool) -> None:
    summary = {
        "pair": pair,
        "summary": dict(told.counts),
        "differences": told.counts.total(),
        "would_be_held": told.held,
        "halts": told.halts,
        "assumed_capabilities": told.assumed,
        "complete": not told.cut_short,
    }
    nothing = "nothing was found" if told.cut_short else "both sides are as agreed"
    what = ", ".join(f"{count} {name}" for name, count in sorted(told.counts.items())) or nothing
    held = "".join(_would_be_held(told, side) for side in sorted(told.held))
    reached = f"after {told.report.resume!r}" if told.report.resume else "before the first key"
    end = f"; CUT SHORT {reached}" if told.cut_short else ""
    assumed = f"\n  {capabilities.assumed_text(told.assumed)}" if told.assumed else ""
    emit(summary, f"dry run of {pair}: {what}{held}; nothing was written{end}{assumed}", as_json=as_json)


def _would_be_held(told: _Foretold, side: Side) -> str:
    held, count = told.held[side], told.deletes[side]
    if held < count:
        return f"; {held} of these {count} deletes on {side} would be held"
    return f"; these {count} deletes on {side} would be held, all of them"


async def _foretell(runtime: PairRuntime, scanner: Scanner, told: _Foretold, keys: tuple[str, ...], *, as_json: bool) -> None:
    """Print what would be done with each difference after those that were told."""
    async with aclosing(scanner.differences(told.report, keys=keys)) as differences:
        async for difference in differences:
            planned = await plan(runtime.context, difference.row.key)
            decision = planned.decision
            delete = decision.action == Action.DELETE
            held = delete and any(not one.verdict for one in await runtime.state.held([planned.key]))
            # From here on nothing can fail: a difference that is met again counts once.
            told.counts[f"{decision.action}"] += 1
            if delete:
                told.deletes[decision.destination] += 1
                told.waiting[decision.destination] += held
            line = {
                "pair": runtime.settings.name,
                "key": planned.key,
                "difference": difference.kind,
                "action": decision.action,
                "source": decision.source,
                "reason": decision.reason,
                "preserve": decision.preserve,
                "held": held,
            }
            arrow = f" {decision.source} -> {decision.source.other}" if decision.source is not None else ""
            kept = f"; the version on {decision.preserve} is kept as a conflict" if decision.preserve is not None else ""
            kept += "; held" if held else ""
            emit(
                line,
                f"{decision.action}{arrow}  {plain(planned.key)}  ({difference.kind}: {decision.reason}{kept})",
                as_json=as_json,
            )


async def _verify(settings: Settings, pair: PairSettings, prefix: str, *, as_json: bool) -> int:
    """Read everything; 1 when something differs, cannot be read, or was not. What was found is told however it ends."""
    clock, found = SystemClock(), Verified()
    async with AsyncExitStack() as stack:
        runtime = await patiently(lambda: stack.enter_async_context(open_pair(settings, pair, clock, create=False)), clock)
        total = None if prefix else (await patiently(runtime.state.backlog, clock)).objects or None
        assumed = await patiently(lambda: capabilities.recall(runtime), clock)
        try:
            with progress(f"reading {pair.name}", quiet=as_json) as tell:
                await patiently(
                    lambda: verify_contents(
                        runtime.stores,
                        runtime.state,
                        runtime.context.transfer,
                        clock,
                        prefix=prefix,
                        found=found,
                        on_progress=lambda far: tell(far.read, total, f"{size(far.bytes)} read"),
                    ),
                    clock,
                    lambda: found.resume,
                )
        finally:
            document = {"pair": pair.name, "verified": found, "assumed_capabilities": assumed}
            text = f"\n  {capabilities.assumed_text(assumed)}" if assumed else ""
            emit(document, f"pair {pair.name}: {found.text()}{text}", as_json=as_json)
    return exit_codes.OK if found.fine else exit_codes.PROBLEMS


async def _history(settings: Settings, pair: PairSettings, *, as_json: bool) -> None:
    async with open_state(settings, pair) as state:
        await state.open(create=False)
        reports = await scan_history(state)
    text = "\n".join(report.text() for report in reversed(reports)) or "no scan was kept"
    emit({"pair": pair.name, "scans": reports}, f"pair {pair.name}, the last scan first\n{text}", as_json=as_json)
