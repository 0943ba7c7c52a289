"""Scans, by invocations: which are due, and one invocation's part in one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex

import msgspec

from federation.errors import RetryLater
from federation.progress import GAP_NOTE, UNION_NOTE
from federation.sync.stopping import end
from federation.telemetry import logger
from federation.wiring import owner_name
from function_app.pair import FunctionPair
from operations.scanning import scanner_of
from reconciler import wanted
from reconciler.book import Book
from reconciler.ground import made_up_from_us
from reconciler.periodic import PeriodicScan
from reconciler.scan import COMPLETE, kept

HELPERS = 4
"""Invocations that are asked each minute to take ranges of a scan that was written down."""
_TTL_SECONDS = 30.0
_log = logger("fedplane.functions")


class Part(msgspec.Struct, frozen=True):
    """What a message of the queue of scans says."""

    pair: str
    prefix: str


async def due(pair: FunctionPair) -> list[str]:
    """Prefixes to scan now, the empty one for the whole pair, repeated where several may help. Raises RetryLater."""
    if await Book(pair.state).plan() is not None:
        return [""] * HELPERS  # under way, or cut off: whoever comes takes a range that nobody has
    wishes = await wanted.asked(pair.state)
    if await _whole_is_due(pair):
        return [""]
    return list(wanted.coalesce(wishes))


async def _whole_is_due(pair: FunctionPair) -> bool:
    last = await kept(pair.state, COMPLETE)
    if last is None or await pair.state.note(UNION_NOTE):
        return True
    lost = await pair.state.note(GAP_NOTE)
    age_seconds = (pair.clock.now_us() - last.started_us) / 1_000_000
    return age_seconds >= pair.config.reconcile.interval_seconds or last.started_us < made_up_from_us(lost)


async def scan(pair: FunctionPair, prefix: str, seconds: float) -> None:
    """Scan *prefix*, or take part in the scan of the whole pair, for *seconds* at most. What is not done stays due.

    A scan that is not written down yet is done by one invocation at a time, and one process takes one part. What is no longer
    due when its message comes is not scanned. Raises RetryLater.
    """
    if prefix in pair.scanning:
        return
    pair.scanning.add(prefix)
    try:
        if await pair.ready():
            await _take_part(pair, prefix, seconds)
    finally:
        pair.scanning.discard(prefix)


async def _take_part(pair: FunctionPair, prefix: str, seconds: float) -> None:
    async with _alone(pair, prefix) as alone:
        if not alone and (prefix or await Book(pair.state).plan() is None):
            return
        if prefix not in await due(pair):
            return
        # Of its own, not the process's: a range that an invocation before this one holds still is not ours.
        owner = f"{owner_name()}:{token_hex(4)}"
        direct = pair.config.functions.event_grid
        scanner = scanner_of(pair.runtime, pair.config.reconcile, yields=True, direct=direct, owner=owner, lasts_seconds=seconds)
        periodic = PeriodicScan(scanner, pair.clock, pair.config.reconcile.interval_seconds, on_start=False)
        try:
            async with asyncio.timeout(seconds):
                await periodic.once(prefix)
        except TimeoutError:
            await _cut_off(pair, prefix)


async def _cut_off(pair: FunctionPair, prefix: str) -> None:
    if prefix:  # nothing of it was kept, so it would take as long again; a scan of the whole pair keeps its ranges
        _log.info("the scan took too long; a scan of the whole pair takes its place", pair=pair.name, prefix=prefix)
        await pair.gap()
    elif await Book(pair.state).plan() is not None:
        _log.info("the scan goes on in another invocation", pair=pair.name)
    else:
        _log.warning(
            "the time was over before anything of the scan could be kept: a side's listing is read whole while its order is not "
            "known. Raise functions.scan_seconds, or run `fedplane reconcile` once from a machine",
            pair=pair.name,
        )


@asynccontextmanager
async def _alone(pair: FunctionPair, prefix: str) -> AsyncIterator[bool]:
    """Whether nobody else scans *prefix*; nobody begins to while the block runs."""
    task, owner = f"functions/scan/{prefix}", token_hex(4)
    if not await pair.state.own(task, owner=owner, ttl_seconds=_TTL_SECONDS):
        yield False
        return
    keeping = asyncio.create_task(_keep(pair, task, owner))
    try:
        yield True
    finally:
        await end([keeping])
        with contextlib.suppress(RetryLater):  # then it ends by itself
            await pair.state.disown(task, owner=owner)


async def _keep(pair: FunctionPair, task: str, owner: str) -> None:
    while True:
        await pair.clock.sleep(_TTL_SECONDS / 3)
        with contextlib.suppress(RetryLater):  # two that do the same scan cost work and no more
            await pair.state.own(task, owner=owner, ttl_seconds=_TTL_SECONDS)
