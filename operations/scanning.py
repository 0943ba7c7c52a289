"""The scanner of an open pair, the same for the running engine and for ``fedplane reconcile``."""

from __future__ import annotations

import math

from federation.model import Side, Source
from federation.scan_settings import ReconcileSettings
from federation.settings import PairSettings
from federation.sync.identity import check_identity, look_at_identity
from federation.wiring import PairRuntime, owner_name
from reconciler.scan import MOST_UNSAVED_ROWS, MOST_UNSAVED_SECONDS, Scanner, ScanOptions


def scanner_of(
    runtime: PairRuntime,
    reconcile: ReconcileSettings,
    *,
    yields: bool,
    asked: bool = False,
    looks_only: bool = False,
    direct: bool = False,
    owner: str = "",
    lasts_seconds: float = math.inf,
) -> Scanner:
    """Build it. *yields*: a worker applies changes meanwhile, and the scan gives way to them.

    *asked*: for a command. *looks_only*: its guard writes nothing. *direct*: as ``tellers``. *owner*: of the ranges it takes;
    empty: this process, where it scans the pair once at a time. *lasts_seconds*: how long the scanner is left to work; it keeps
    what it has well before that.
    """

    async def guard() -> None:
        look = look_at_identity if looks_only else check_identity
        await look(runtime.stores, runtime.state, runtime.settings.name)

    options = ScanOptions(
        owner=owner or owner_name(),
        range_rows=reconcile.range_rows,
        parallel=reconcile.parallel_ranges,
        save_rows=min(MOST_UNSAVED_ROWS, reconcile.range_rows // 4),
        save_seconds=min(MOST_UNSAVED_SECONDS, lasts_seconds / 4),
        yields=yields,
        asked=asked,
    )
    return Scanner(
        runtime.stores,
        runtime.state,
        runtime.sink,
        runtime.context.clock,
        quiet_us=runtime.context.quiet_us,
        tombstone_us=runtime.settings.rules.tombstone_us,
        tellers=tellers(runtime.settings, direct=direct),
        options=options,
        delete_budget=runtime.settings.rules.delete_budget,
        guard=guard,
    )


def tellers(pair: PairSettings, *, direct: bool) -> dict[Side, str]:
    """Which source should tell of changes of each side, of two the sooner; empty where none is set up.

    *direct*: Event Grid delivers to a function itself, which no setting of the pair tells (``functions.event_grid``).
    """
    feed = Source.CHANGE_FEED.value if pair.blob.change_feed.enabled else ""
    return {
        Side.BLOB: Source.EVENT_GRID.value if pair.blob.events.any or direct else feed,
        Side.VAST: Source.VAST_EVENTS.value if pair.vast.events.bootstrap else "",
    }
