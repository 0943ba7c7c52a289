"""What a pair's state keeps of scans: the plan and the ranges of one under way, boundaries for the next, reports of past ones."""

from __future__ import annotations

import msgspec

from federation.ports import State
from reconciler.finishing import Finish
from reconciler.ground import Ground
from reconciler.ranges import Plan, Progress
from reconciler.report import Report
from reconciler.withheld import Gone

HISTORY = 50
WHOLE_KEPT = 5
"""Of scans of the whole pair as many are kept, however many scoped ones came after."""
LAST, LAST_WHOLE, COMPLETE, PAST = "scan:last", "scan:last_whole", "scan:complete", "scan:history"
"""Names of the notes: last report, last of the whole pair, complete or not, last complete one of the whole pair, history."""
_PLAN, _RANGE, _FINISH, _BOUNDS, _CUTS = "scan:plan", "scan:range:", "scan:finish", "scan:bounds", "scan:cuts"
_SCOPED = "scan:scoped"
SCANNING = "scan:"
"""How the names of all tasks of scanning begin."""
PLANNING, FINISHING = f"{SCANNING}planning", f"{SCANNING}finishing"
"""Tasks that one process at a time does."""


def range_task(number: int) -> str:
    """The task of scanning one range."""
    return f"{_RANGE}{number}"


class Scoped(msgspec.Struct, kw_only=True):
    """How far a scan of a prefix is, and when that was kept."""

    report: Report
    withheld: list[Gone]
    saved_us: int
    ground: Ground | None = None


class Book:
    """Notes in the pair's state. Every method raises RetryLater when the state cannot be reached."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def plan(self) -> Plan | None:
        """Of the scan under way, if one was written down."""
        packed = await self._state.note(_PLAN)
        return msgspec.json.decode(packed, type=Plan) if packed else None

    async def write_plan(self, plan: Plan) -> None:
        """From now on others may help, and whoever comes after a crash goes on."""
        await self._state.put_note(_PLAN, msgspec.json.encode(plan))

    async def drop_plan(self, plan: Plan) -> None:
        """The scan is over: its plan and its ranges are forgotten."""
        await self._state.put_note(_PLAN, b"")
        for number in range(len(plan.ranges)):
            await self._state.put_note(range_task(number), b"")
        await self._state.put_note(_FINISH, b"")
        await self._state.drop_marks(plan.ground.task)

    async def progress(self, plan: Plan, number: int) -> Progress | None:
        """One range of *plan* as saved last; None when nobody saved any of it."""
        packed = await self._state.note(range_task(number))
        found = msgspec.msgpack.decode(packed, type=Progress) if packed else None
        return found if found is not None and found.scan == plan.scan else None

    async def asked_us(self) -> int:
        """When a command that asked for the scan under way began it, or kept it last; 0: none did."""
        plan = await self.plan()
        if plan is None or not plan.asked:
            return 0
        ranges = [await self.progress(plan, number) for number in range(len(plan.ranges))]
        return max(plan.started_us, *(0 if one is None else one.asked_us for one in ranges))

    async def save(self, number: int, progress: Progress) -> None:
        """Keep how far a range is. After its marks are durable (rule 6)."""
        await self._state.put_note(range_task(number), msgspec.msgpack.encode(progress))

    async def finish(self, plan: Plan) -> Finish | None:
        """How far the end of *plan*'s scan is; None when nobody saved any of it."""
        packed = await self._state.note(_FINISH)
        found = msgspec.msgpack.decode(packed, type=Finish) if packed else None
        return found if found is not None and found.scan == plan.scan else None

    async def save_finish(self, finish: Finish) -> None:
        """Keep it. After what it tells of is durable (rule 6)."""
        await self._state.put_note(_FINISH, msgspec.msgpack.encode(finish))

    async def scoped(self) -> Scoped | None:
        """The scan of a prefix that was kept last and not ended."""
        packed = await self._state.note(_SCOPED)
        return msgspec.msgpack.decode(packed, type=Scoped) if packed else None

    async def save_scoped(self, scoped: Scoped) -> None:
        """Keep how far it is. After its marks are durable (rule 6)."""
        if scoped.ground is not None:
            await self._state.keep_marks(scoped.ground.task)
        await self._state.put_note(_SCOPED, msgspec.msgpack.encode(scoped))

    async def drop_scoped(self) -> None:
        """It ended."""
        await self._state.put_note(_SCOPED, b"")

    async def bounds(self) -> list[str]:
        """Where the last whole scan says to cut the next one."""
        packed = await self._state.note(_BOUNDS)
        return msgspec.json.decode(packed, type=list[str]) if packed else []

    async def write_bounds(self, bounds: list[str]) -> None:
        """For the next whole scan."""
        await self._state.put_note(_BOUNDS, msgspec.json.encode(bounds) if bounds else b"")

    async def cuts(self) -> int:
        """Whole scans in a row that were cut."""
        return int(await self._state.note(_CUTS) or 0)

    async def write_cuts(self, cuts: int) -> None:
        """Keep that number."""
        await self._state.put_note(_CUTS, str(cuts).encode() if cuts else b"")

    async def keep(self, report: Report) -> None:
        """Add *report* to those kept; of attempts in a row at one thing that were cut short, only the last is."""
        packed = msgspec.json.encode(report)
        await self._state.put_note(LAST, packed)
        if not (report.prefix or report.keys):
            await self._state.put_note(LAST_WHOLE, packed)
        past = await self._state.note(PAST)
        before = msgspec.json.decode(past, type=list[Report]) if past else []
        if before and report.passing and before[-1].passing and _what(report) == _what(before[-1]):
            before.pop()
        reports = [*before, report]
        whole = [one for one in reports if one.whole][-WHOLE_KEPT:]
        kept = [one for at, one in enumerate(reports) if one in whole or at >= len(reports) - HISTORY]
        await self._state.put_note(PAST, msgspec.json.encode(kept))
        if report.whole:
            await self._state.put_note(COMPLETE, packed)


def _what(report: Report) -> tuple[str, int]:
    return report.prefix, report.keys


async def history(state: State) -> list[Report]:
    """The kept reports, oldest first."""
    past = await state.note(PAST)
    return msgspec.json.decode(past, type=list[Report]) if past else []


async def whole_scans(state: State) -> list[Report]:
    """Those of scans that compared the whole pair to the end."""
    return [report for report in await history(state) if report.whole]


async def kept(state: State, name: str) -> Report | None:
    """A kept report: LAST, LAST_WHOLE or COMPLETE."""
    packed = await state.note(name)
    return msgspec.json.decode(packed, type=Report) if packed else None
