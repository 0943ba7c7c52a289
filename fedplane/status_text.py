"""A pair's status as a page for people."""

from __future__ import annotations

from federation import nameless
from federation.model import Side
from federation.progress import HaltRecord
from federation.rules.guards import tally_text
from federation.rules.parking import parking
from federation.sources.canary import Proof
from fedplane.output import ago, iso, size
from operations.heartbeat import Heartbeat, SideHealth
from operations.status import Direction, PairStatus
from reconciler.report import Report

_WORDS = {
    "in_step": "in step",
    "working": "working",
    "attention": "needs a person",
    "halted": "HALTED",
    "unknown": "unknown",
}

CROWDED = (
    "above {room:,} objects (worker.shards x worker.buckets x 400) a record takes nearly twice the memory; "
    "move the state to more worker.buckets with `fedplane state export` and `import`"
)


def _end_of(halt: HaltRecord) -> str:
    if halt.self_lifting:
        return " (ends by itself)"
    return "" if f"fedplane lift {halt.name}" in halt.detail else f"; then: fedplane lift {halt.name}"


def page(status: PairStatus) -> str:
    """Everything, most urgent first."""
    lines = [f"pair {status.pair} ({status.mode}): {_WORDS[status.state]}"]
    lines += [f"  HALT {halt.name} since {iso(halt.since_us)}: {halt.detail}" + _end_of(halt) for halt in status.halts]
    if status.union_mode:
        lines.append("  union mode: the state was empty, nothing is deleted until a whole scan has run")
    lines += [f"  {name.replace('_', ' ')}: {_direction(one, status)}" for name, one in status.directions.items()]
    as_of = _as_of(status.converged_as_of_us, status)
    lines.append(f"  objects agreed {status.objects}, dirty {status.dirty}, in step as of {as_of}")
    if status.room is not None and status.objects > status.room:
        lines.append(f"  NO ROOM: {CROWDED.format(room=status.room)}")
    dead = f"{status.dead_letters}" + (f" ({status.dead_letters_dropped} more dropped)" if status.dead_letters_dropped else "")
    lines.append(f"  parked {status.parked}, held {status.held}, conflicts {status.conflicts}, dead letters {dead}")
    lines += [
        f"  parked {count:,} {reason}: {parking(reason).meaning} {parking(reason).way_back}"
        for reason, count in (status.parked_by_reason or {}).items()
    ]
    if status.deletes.done or status.deletes.held:
        done = tally_text(status.deletes.done, status.deletes.done_renames)
        waiting = tally_text(status.deletes.held, status.deletes.held_renames)
        lines.append(f"  within the delete budget: {done}; held: {waiting}")
    if status.last_whole_scan is not None:
        lines += [f"  {line}" for line in nameless.text(status.last_whole_scan.unaddressable)]
    lines.append(f"  last scan: {_scan(status.last_scan, status.at_us)}")
    if status.last_scan is not None and not status.last_scan.whole:
        lines.append(f"  last whole scan: {_scan(status.last_whole_scan, status.at_us)}")
    if status.change_feed is not None:
        lines.append(f"  change feed: {status.change_feed.text(status.at_us)}")
    if status.canary is not None:
        lines.append(f"  canary of vast events: {_canary(status.canary)}")
    for name, health in sorted(status.sources.items()):
        told = ", ".join(
            f"{key} {value}" for key, value in health.items() if value not in (None, "", 0) and not key.endswith("_us")
        )
        lines.append(f"  source {name}: {told or 'nothing yet'}")
    lines += [_process(beat, status.at_us) for beat in status.processes] or ["  no process has reported"]
    return "\n".join(lines)


def _canary(proof: Proof) -> str:
    if proof.age_seconds is None:
        return "no event has come back yet"
    return f"events proved to arrive as of {ago(proof.age_seconds)} ago" + (" (OVERDUE)" if proof.doubt else "")


def _as_of(at_us: int | None, status: PairStatus) -> str:
    """A time that holds for all keys but those that wait for a person, of which there may be many."""
    counts = [f"{count:,} {what}" for count, what in ((status.parked, "parked"), (status.held, "held")) if count]
    return iso(at_us) + (f", save {' and '.join(counts)}" if counts and at_us is not None else "")


def _direction(one: Direction, status: PairStatus) -> str:
    applied = f"everything applied as of {_as_of(one.converged_as_of_us, status)}"
    if one.lag_seconds is not None:
        return f"lag {ago(one.lag_seconds)}, backlog {one.backlog}; {applied}"
    least = f" (at least {ago(one.at_least_seconds)})" if one.at_least_seconds else ""
    return f"lag UNKNOWN{least}, backlog {one.backlog}: {'; '.join(one.unknown_because)}; {applied}"


def _scan(report: Report | None, now_us: int) -> str:
    if report is None:
        return "none yet"
    end = "complete" if report.complete else f"INCOMPLETE ({report.error or report.halted or 'stopped'})"
    missed = sum(report.missed_by_events.values())
    return (
        f"{ago((now_us - report.started_us) / 1_000_000)} ago, {end}, {report.rows} keys in {report.seconds:.1f} s, "
        f"{sum(report.drift.values())} differences, {missed} missed by events"
    )


def _answers(side: SideHealth) -> str:
    return "answers" if side.answers else f"DOES NOT ANSWER: {side.last_error or 'no reason known yet'}"


def _process(beat: Heartbeat, now_us: int) -> str:
    age = (now_us - beat.at_us) / 1_000_000
    if not beat.fresh(now_us):
        return f"  process {beat.process}: GONE, last heard {ago(age)} ago"
    sides = ", ".join(f"{side} {_answers(beat.sides[side])}" for side in Side)
    return f"  process {beat.process}: {sides}; {beat.in_flight} keys at work, {beat.shards} shards, {size(beat.rss_bytes)}"
