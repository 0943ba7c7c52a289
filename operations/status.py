"""How far behind each direction is, from the pair's state and what its processes say. Unknown stays unknown (rule 9)."""

from __future__ import annotations

import dataclasses
from collections import Counter

import msgspec

from federation.model import Side, Source
from federation.ports import State
from federation.progress import GAP_NOTE, UNION_NOTE, Backlog, DeadTally, DeleteTally, HaltRecord
from federation.settings import PairSettings, WorkerSettings
from federation.sources import canary
from federation.state.layout import room
from operations import feed_status
from operations.feed_status import FeedLag
from operations.heartbeat import Heartbeat, clocks_ahead_us, heartbeats
from reconciler import wanted
from reconciler.book import COMPLETE, LAST, LAST_WHOLE, kept, whole_scans
from reconciler.converged import CLOCK_SLACK_US, ScanSpan, Watermark, both_us, converged_us
from reconciler.report import Report

PARKED_READ = 10_000
"""Parked keys that status reads to tell them apart by reason."""
_NAMED = 3
"""Prefixes of scans asked for that a doubt names."""
_EVENTS_OF = {
    Side.BLOB: ("event_grid_queue", "event_grid_webhook", "event_grid_pull"),
    Side.VAST: (Source.VAST_EVENTS.value,),
}


class Direction(msgspec.Struct, kw_only=True):
    """Changes of one side on their way to the other."""

    lag_seconds: float | None
    """Age of the oldest change not yet applied; None when it cannot be known, then ``unknown_because`` says why."""
    at_least_seconds: float | None
    """What is known of the lag even then."""
    unknown_because: list[str]
    backlog: int
    """Dirty keys with news of this side."""
    converged_as_of_us: int | None = None
    """The time before which every change of this side is applied on the other, save parked and held keys; None: not known."""


class PairStatus(msgspec.Struct, kw_only=True):
    """One pair. Times in microseconds since 1970 UTC."""

    pair: str
    mode: str
    at_us: int
    state: str
    """``in_step``, ``working``, ``attention`` (parked or held keys, names without a key), ``halted`` or ``unknown``."""
    directions: dict[str, Direction]
    dirty: int
    parked: int
    parked_by_reason: dict[str, int] | None
    """None beyond ``PARKED_READ`` keys: too many to read for a page."""
    held: int
    deletes: DeleteTally
    conflicts: int
    dead_letters: int
    dead_letters_dropped: int
    """Beyond the bounds of what is kept."""
    objects: int
    room: int | None
    """So many the state's layout holds compactly (``federation.state.layout.room``); None: the layout is not known here."""
    halts: list[HaltRecord]
    union_mode: bool
    converged_as_of_us: int | None
    """The earlier of both directions': as of then the sides are equal, save parked and held keys."""
    last_scan: Report | None
    last_whole_scan: Report | None
    processes: list[Heartbeat]
    change_feed: FeedLag | None = None
    """None: not set up."""
    canary: canary.Proof | None = None
    """Whether events of VAST were seen to arrive; None where no canary is configured."""

    @property
    def sources(self) -> dict[str, dict[str, object]]:
        """Positions and counts of the sources, of the process that spoke last."""
        return dict(self.processes[0].sources) if self.processes else {}


async def pair_status(state: State, pair: PairSettings, now_us: int, *, worker: WorkerSettings | None = None) -> PairStatus:
    """Read everything and conclude. Raises RetryLater when the state cannot be read."""
    beats = await heartbeats(state)
    fresh = [beat for beat in beats if beat.fresh(now_us)]
    # Before the backlog: of a scan that ends in between, what it marked last would not be seen waiting.
    scans, union, lost = await whole_scans(state), bool(await state.note(UNION_NOTE)), bool(await state.note(GAP_NOTE))
    missed = _missed(lost=lost, wishes=sorted(await wanted.asked(state)))
    ahead_us = {side: max(clocks_ahead_us(beats, side, now_us), default=None) for side in Side}
    backlog = _on_our_clock(await state.backlog(), ahead_us)
    whole, last, halts = await kept(state, COMPLETE), await kept(state, LAST), await state.halts()
    tried = [last, await kept(state, LAST_WHOLE)]
    general, unread = _general_doubts(fresh, halts, tried, whole, union=union) + missed, _unread(backlog.dead, whole)
    proof = await _proof(state, pair, now_us)
    unread[Side.VAST] += [proof.doubt] if proof is not None and proof.doubt else []
    untimed = {side for side in Side if ahead_us[side] is None and backlog.oldest_us_by_side[side] is not None}
    for side in untimed:
        unread[side].append(f"how far the clock of {side} is from ours was not measured yet")
    directions = _directions(pair, backlog, general, unread, fresh, now_us)
    marks = {side: None if unread[side] else _watermark(side, fresh) for side in Side}
    _say_as_of(directions, scans, backlog, marks, blind=set(Side) if union or lost else untimed)
    return PairStatus(
        pair=pair.name,
        mode=pair.mode.value,
        at_us=now_us,
        state=_state(backlog, directions, halts, whole),
        directions=directions,
        dirty=backlog.dirty,
        parked=backlog.parked,
        parked_by_reason=await _by_reason(state) if backlog.parked <= PARKED_READ else None,
        held=backlog.held,
        deletes=await state.delete_tally(pair.rules.delete_budget, now_us=now_us),
        conflicts=backlog.conflicts,
        dead_letters=backlog.dead.kept,
        dead_letters_dropped=backlog.dead.dropped,
        objects=backlog.objects,
        room=room(worker.shards, worker.buckets) if worker is not None else None,
        halts=halts,
        union_mode=union,
        converged_as_of_us=both_us([one.converged_as_of_us for one in directions.values()]),
        last_scan=last,
        last_whole_scan=whole,
        processes=beats,
        change_feed=await _feed(state, pair, fresh),
        canary=proof,
    )


def _directions(
    pair: PairSettings,
    backlog: Backlog,
    general: list[str],
    unread: dict[Side, list[str]],
    fresh: list[Heartbeat],
    now_us: int,
) -> dict[str, Direction]:
    return {
        f"{side}_to_{side.other}": _direction(
            side, backlog, general + unread[side], fresh, now_us=now_us, no_events=_no_events(pair, side)
        )
        for side in Side
    }


async def _proof(state: State, pair: PairSettings, now_us: int) -> canary.Proof | None:
    every_seconds = pair.vast.events.canary_seconds if pair.vast.events.bootstrap else 0
    return await canary.proof(state, every_seconds, now_us) if every_seconds else None


async def _by_reason(state: State) -> dict[str, int]:
    return dict(Counter(one.reason for one in await state.parked()).most_common())


def _on_our_clock(backlog: Backlog, ahead_us: dict[Side, int | None]) -> Backlog:
    """The ages of waiting changes, whose times are of each side's own clock, as our clock would have it."""
    oldest = {side: backlog.waiting_since_us(side, ahead_us[side] or 0) for side in Side}
    return dataclasses.replace(backlog, oldest_us_by_side=oldest)


def _general_doubts(
    fresh: list[Heartbeat], halts: list[HaltRecord], tried: list[Report | None], whole: Report | None, *, union: bool
) -> list[str]:
    """Why no lag of this pair can be known, whatever the direction. *tried*: the last scan, and the last of the whole pair."""
    doubts = [f"the pair is halted: {halt.name}" for halt in halts]
    if not fresh:
        doubts.append("no process works on this pair (no heartbeat)")
    elif not any(beat.ready for beat in fresh):
        doubts.append("the process is starting and waits for a side")
    if whole is None:
        doubts.append("no whole scan was ever completed")
    elif union:
        doubts.append("the state was lost and is being rebuilt by a scan")
    cut = {not (one.prefix or one.keys): one for one in tried if one is not None and not one.complete}
    doubts += [
        f"the last scan{' of the whole pair' if whole_pair else ''} did not finish: {one.error or one.halted or 'stopped'}"
        for whole_pair, one in cut.items()
    ]
    return doubts


def _missed(*, lost: bool, wishes: list[str]) -> list[str]:
    """Doubts until a scan has found what no event told by its key: *wishes* are the prefixes of those asked for and not ended."""
    doubts = ["marks were lost with the state: the whole scan that finds what they told of has not ended"] if lost else []
    if not wishes:
        return doubts
    more = f" and {len(wishes) - _NAMED} more" if len(wishes) > _NAMED else ""
    part = "" if "" in wishes else f" below {', '.join(map(repr, wishes[:_NAMED]))}{more}"
    return [*doubts, f"a source missed something{part}: the scan it asked for has not ended"]


def _unread(dead: DeadTally, whole: Report | None) -> dict[Side, list[str]]:
    """Doubts by side: a record nobody could read told of something, until a whole scan that began later looked at everything.

    Later by any clock of our processes: who could not read it may not be who scans.
    """
    sure_us = whole.started_us if whole is not None else 0
    text = "a record of {} could not be read since the last whole scan: see `fedplane events dead`, or run `fedplane reconcile`"
    late = sorted(name for name, at_us in dead.newest_us.items() if at_us > sure_us - CLOCK_SLACK_US)
    return {side: [text.format(name) for name in late if name in _EVENTS_OF[side]] for side in Side}


def _direction(
    side: Side, backlog: Backlog, general: list[str], fresh: list[Heartbeat], *, now_us: int, no_events: str
) -> Direction:
    oldest = backlog.oldest_us_by_side[side]
    known = max(0.0, (now_us - oldest) / 1_000_000) if oldest is not None else 0.0
    doubts = list(general)
    if no_events:
        doubts.append(no_events)
    ready = [beat for beat in fresh if beat.ready]
    doubts += [
        f"the {one} side does not answer: {ready[0].sides[one].last_error or 'no reason known yet'}"
        for one in Side
        if ready and not any(beat.sides[one].answers for beat in ready)
    ]
    if not no_events and ready:
        behind_us, trouble = _source_doubt(side, ready, now_us)
        if trouble:
            doubts.append(trouble)
        if behind_us is not None:
            known = max(known, (now_us - behind_us) / 1_000_000)
    return Direction(
        lag_seconds=None if doubts else round(known, 3),
        at_least_seconds=round(known, 3),
        unknown_because=doubts,
        backlog=backlog.dirty_by_side[side],
    )


def _source_doubt(side: Side, ready: list[Heartbeat], now_us: int) -> tuple[int | None, str]:
    """Time by our clock up to which events were read, where more is waiting; and why that cannot be known."""
    told = [beat.sources[name] for beat in ready for name in _EVENTS_OF[side] if name in beat.sources]
    connected = [one for one in told if one.get("connected")]
    if not connected:
        error = next((one["last_error"] for one in told if one.get("last_error")), "not connected yet")
        return None, f"the events of {side} cannot be read: {error}"
    unread = max(one.get("partitions", 0) for one in connected) - sum(one.get("held", 0) for one in connected)
    if unread > 0:
        return None, f"{unread} partitions of the topic of {side} are read by no process"
    behind = [one.get("read_to_us") for one in connected if one.get("behind")]
    ahead_us = max(clocks_ahead_us(ready, side, now_us), default=None)
    known = [at_us - ahead_us for at_us in behind if at_us and ahead_us is not None]
    doubt = f"events of {side} wait to be read, of an age that is not known" if len(known) < len(behind) else ""
    return min(known, default=None), doubt


async def _feed(state: State, pair: PairSettings, fresh: list[Heartbeat]) -> FeedLag | None:
    """What is set up and told of by nobody is not read; how far it was read is kept."""
    if not pair.blob.change_feed.enabled:
        return None
    cursor = await state.cursor(feed_status.SOURCE)
    kept = {name: cursor.position.get(name) or None for name in ("newest_us", "as_of_us")} if cursor is not None else {}
    return feed_status.feed_lag([kept | beat.sources.get(feed_status.SOURCE, {}) for beat in fresh] or [kept])


def _no_events(pair: PairSettings, side: Side) -> str:
    """Why no events of *side* can tell its lag; empty: they are set up."""
    if side is Side.BLOB:
        configured = pair.blob.events.any
        if not configured and pair.blob.change_feed.enabled:
            return "changes of blob come by the change feed only, which is minutes late: no event source is set up"
    else:
        configured = bool(pair.vast.events.bootstrap)
    return "" if configured else f"no event source is set up for {side}: its changes are found by scans only"


def _state(backlog: Backlog, directions: dict[str, Direction], halts: list[HaltRecord], whole: Report | None) -> str:
    if halts:
        return "halted"
    if any(direction.lag_seconds is None for direction in directions.values()):
        return "unknown"
    if backlog.dirty:
        return "working"
    unaddressable = whole is not None and whole.unaddressable
    return "attention" if backlog.parked or backlog.held or unaddressable else "in_step"


def _say_as_of(
    directions: dict[str, Direction],
    whole: list[Report],
    backlog: Backlog,
    marks: dict[Side, Watermark | None],
    *,
    blind: set[Side],
) -> None:
    """*blind*: sides of which nothing can be said."""
    scans = [ScanSpan(one.started_us, one.finished_us) for one in whole]
    for side in set(Side) - blind:
        at_us = converged_us(scans, backlog.oldest_us_by_side[side], marks[side])
        directions[f"{side}_to_{side.other}"].converged_as_of_us = at_us


def _watermark(side: Side, fresh: list[Heartbeat]) -> Watermark | None:
    """Up to when a source that is complete has told everything of *side*: the change feed, on the Blob side."""
    told = [beat.sources.get(Source.CHANGE_FEED.value, {}) for beat in fresh] if side is Side.BLOB else []
    known = [one for one in told if one.get("from_us") and one.get("as_of_us")]
    if not known:
        return None
    return max((Watermark(int(one["from_us"]), int(one["as_of_us"])) for one in known), key=lambda one: one.until_us)
