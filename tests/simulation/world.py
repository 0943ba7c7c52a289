"""One simulated world: two sides, a state, channels, processes, users, faults and the oracle."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from federation.model import Side
from federation.ports import Capabilities
from federation.settings import Settings
from federation.stores.memory import _Object
from reconciler.report import Report
from reconciler.scan import LAST
from tests.simulation import channels
from tests.simulation.channels import Delivery, Queue, Told, Topic
from tests.simulation.loop import UNIT, SimLoop, Stuck
from tests.simulation.oracle import Oracle, value_of
from tests.simulation.processes import START_US, Process, replaced, settings_of
from tests.simulation.progress import Progress
from tests.simulation.script import PROCESSES, Act, Rates, Script
from tests.simulation.sides import Server, SideClock
from tests.simulation.statebox import StateBox
from tests.simulation.users import Users

CONVERGE_SECONDS = 1800.0
"""Virtual time within which a world at rest must have converged."""
_RESTART_SECONDS = 1.0
_SCANS_UNDER_WAY = 2
_LIFTED_SECONDS = 60.0
"""How long an operator's word that a side may be empty may still be at work in a scan."""
RELIST_SECONDS = 61.0
"""After which a scan takes a kept copy without a record for one whose record was lost."""


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    script: Script
    violations: list[str]
    faults: Counter[str]
    steps: int
    virtual_seconds: float
    events: int
    writes: int
    conflicts: int
    trace: list[str] = field(default_factory=list)


class World:
    """Made of a script; ``run`` it once."""

    def __init__(self, script: Script, *, traced: bool = False) -> None:
        self.script = script
        self.oracle = Oracle(script)
        self.faults: Counter[str] = Counter()
        self.calm = False
        self.trace: list[str] | None = [] if traced else None
        self.servers = {
            side: Server(
                side, SideClock(script.skew_us[side], script.drift_ppm[side], START_US), self._changed, self.oracle.raced
            )
            for side in Side
        }
        if not script.conditions:
            self.servers[Side.VAST].capabilities = Capabilities(
                conditional_put=False, conditional_delete=False, conditional_complete=False, min_part_bytes=1
            )
        self.oracle.servers = self.servers
        self.progress = Progress(self.oracle, lambda: self.box.inner, lambda: self.box.losses)
        self.box = StateBox(script.shards, self.progress.heard, self.oracle.fail)
        self.queue, self.poison, self.topic = Queue(), Queue(), Topic()
        rng = Random(f"{script.seed} delivery")
        self.deliveries = {
            Side.BLOB: Delivery(rng, self.rates, self.count, self.queue.add),
            Side.VAST: Delivery(rng, self.rates, self.count, self.topic.add),
        }
        self.processes: dict[str, Process] = {}
        self.started = 0
        self.users = Users(self)
        self.lifted_at = -_LIFTED_SECONDS
        """When the operator last allowed a side to be empty."""
        self._scans_seen: dict[str, list[Report]] = {}

    # ----------------------------------------------------------------------------------------------------- small services

    def rates(self) -> Rates:
        """Of faults now; none once the world is calm."""
        return Rates(latency_seconds=self.script.rates.latency_seconds) if self.calm else self.script.rates

    def count(self, fault: str) -> None:
        """One fault happened."""
        self.faults[fault] += 1
        self.note(f"FAULT {fault}")

    def note(self, text: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{asyncio.get_running_loop().time():9.3f} {channels.unit_name():6} {text}")

    def settings(self, process: str) -> Settings:
        """Of one process."""
        return settings_of(self.script, other=self.script.mixed_settings and process != PROCESSES[0])

    # --------------------------------------------------------------------------------------------------- what is observed

    def _changed(self, server: Server, key: str, before: _Object | None, after: _Object | None) -> None:
        by_user = UNIT.get() is None
        self.note(f"{server.side}:{key} {_short(before)} => {_short(after)}")
        if not key.startswith(".federation/") and not by_user:
            self.oracle.engine_changed(server.side, key, after)
        if not server.told:
            return
        at_us, now = server.clock.now_us(), asyncio.get_running_loop().time()
        if server.side is Side.BLOB:
            metadata_only = before is not None and after is not None and after.data is before.data
            if not metadata_only:  # Event Grid tells nothing of metadata
                body = channels.blob_event(key, after.etag if after else None, at_us)
                self.deliveries[Side.BLOB].send(Told(Side.BLOB, key, body, now))
            return
        name = "ObjectCreated:Put" if after is not None else "ObjectRemoved:Delete"
        body = channels.vast_event(key, name, after.etag if after else None, at_us)
        self.deliveries[Side.VAST].send(Told(Side.VAST, key, body, now))

    def observe(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        """A state call took effect."""
        self.progress.called(name, arguments, result)
        if name == "mark":
            for change in arguments[0]:
                self.note(f"mark {change.side}:{change.key} {change.source} {change.etag} deleted={change.deleted} {result}")
        elif name == "move_cursor" and result:
            self._cursor_moved(arguments[2].position)
        elif name == "put_note" and arguments[0] == LAST:
            self._scanned(msgspec.json.decode(arguments[1], type=Report))
        if name in {"settle", "park", "hold", "defer", "record_conflict", "halt", "judge"}:
            self.note(f"{name} {arguments[1:] or arguments} {named or ''} {result}")

    def _scanned(self, report: Report) -> None:
        """A scan tells of itself: whole only if no listing of it failed, and never that a side was emptied (rules 3 and 8)."""
        process = UNIT.get()
        if not report.complete or report.prefix or not isinstance(process, Process):
            return
        if any(act.kind == "jump" for act in self.script.faults):
            return  # then its times tell nothing
        started = (report.started_us - process.clock.off_us - START_US) / 1e6
        if any(at >= started for at in process.listings_failed):
            self.oracle.fail("a scan whose listing failed says that it was whole")
        known = any(since < started for since in self.progress.agreed_since.values())
        for side in Side:
            allowed = self.box.inner._notes.get(f"may_be_empty:{side}")
            if (
                known
                and not allowed
                and self.lifted_at + _LIFTED_SECONDS < started
                and report.listed[side.other]
                and not report.listed[side]
            ):
                self.oracle.fail(f"a scan believed that all of {side} is gone")

    def _cursor_moved(self, position: dict[str, int]) -> None:
        for partition, at in position.items():
            for record in self.topic.partitions[int(partition)][self.topic.first[int(partition)] : at]:
                self.progress.acknowledged(record.told)

    # ------------------------------------------------------------------------------------------------------------ running

    def run(self) -> Outcome:
        """From the first act to the last check."""
        random.seed(self.script.seed)  # back-off jitter
        loop = SimLoop(self.script.seed)
        with replaced():
            try:
                loop.run(self._main(loop))
            except Stuck as stuck:
                self.oracle.fail(f"stuck: {stuck}")
            for process in self.processes.values():
                loop.kill(process)
        for context in loop.errors:
            self.oracle.fail(f"nobody awaited: {context.get('message')}: {context.get('exception')!r}")
        return Outcome(
            self.script,
            self.oracle.violations,
            self.faults,
            loop.steps,
            loop.time(),
            sum(len(delivery.past) for delivery in self.deliveries.values()),
            len(self.oracle.writes),
            len(self.box.inner._conflicts),
            self.trace or [],
        )

    async def _main(self, loop: SimLoop) -> None:
        for name in PROCESSES[: self.script.processes]:
            self.start(name)
        acts = sorted(
            [(act, self.users.do) for act in self.script.users] + [(act, self._fault) for act in self.script.faults],
            key=lambda pair: pair[0].at,
        )
        for act, do in acts:
            await asyncio.sleep(max(0.0, act.at - loop.time()))
            self.note(f"ACT {act}")
            do(act)
        await asyncio.sleep(max(0.0, self.script.end - loop.time()))
        self._heal()
        if not await self._come_to_rest():
            return
        if self.oracle.state_lost:
            await asyncio.sleep(RELIST_SECONDS + 2 * self.script.scan_seconds)
        self.oracle.settle_accounts(self.box.inner)
        before = self.oracle.mutations
        await asyncio.sleep(2 * self.script.scan_seconds + 5)
        if self.oracle.mutations != before:
            self.oracle.fail(f"{self.oracle.mutations - before} writes by scans of equal sides")
        self._echoes_were_free()
        await self._stop_all(loop)

    def _echoes_were_free(self) -> None:
        for process in self.processes.values():
            stats = process.runtime.worker.stats if process.runtime is not None else None
            if stats is not None and stats.echo_requests:
                self.oracle.fail(f"{stats.echo_requests} storage requests for {stats.echoes} echoes")

    def start(self, name: str) -> None:
        """Start a process, as its supervisor does."""
        self.started += 1
        self.processes[name] = process = Process(self, name, self.started)
        process.start()

    def _heal(self) -> None:
        self.note("HEAL")
        self.calm = True

    async def _come_to_rest(self) -> bool:
        loop = asyncio.get_running_loop()
        why = ""
        deadline = loop.time() + CONVERGE_SECONDS + self.script.rates.late_seconds
        while loop.time() < deadline:
            await asyncio.sleep(1.0)
            self._operator()
            why = self._restless()
            if not why:
                return True
        state = self.box.inner
        left = {"dirty": list(state._dirty.items()), "parked": list(state._parked.values()), "halts": list(state._halts)}
        self.oracle.fail(f"not at rest after {CONVERGE_SECONDS} s: {why}: {left}")
        return False

    def _operator(self) -> None:
        """The person on call: looks at halts and held deletes and says yes."""
        state = self.box.inner
        for name in list(state._halts):
            if not state._halts[name].self_lifting:
                self.note(f"operator lifts {name}")
                self.lifted_at = asyncio.get_running_loop().time()
                del state._halts[name]
                side = name.removeprefix("side_emptied_")
                if side != name:
                    state._notes[f"may_be_empty:{side}"] = b"1"
        held = [key for key, one in state._held.items() if not one.verdict]
        self.oracle.released.update(held)
        if held and self.processes:
            process = next(iter(self.processes.values()))
            state._clock = process.clock
            asyncio.get_running_loop().create_task(state.judge(held, verdict="released", now_us=process.clock.now_us()))

    def _restless(self) -> str:
        """Why the world is not at rest: something on its way, dirty, or no whole scan since then that found nothing."""
        state = self.box.inner
        behind = any(
            max(self._position(number), self.topic.first[number]) < len(records)
            for number, records in enumerate(self.topic.partitions)
        )
        moving = {
            "events under way": any(delivery.under_way for delivery in self.deliveries.values()),
            "messages in the queue": self.queue.messages,
            "topic not read": behind,
            "dirty": state._dirty,
            "halted": state._halts,
            "held": state._held,
            "parked": [one for one in state._parked.values() if one.reason != "revert_limit"],
        }
        busy = [name for name, value in moving.items() if value]
        if busy:
            self._scans_seen.clear()
            return ", ".join(busy)
        quiet = False
        for process in self.processes.values():
            scan = process.engine.scan.last if process.engine is not None and not process.dead else None
            if scan is None:
                continue
            seen = self._scans_seen.setdefault(process.name, [])
            if not seen or seen[-1] is not scan:
                seen.append(scan)
            # The first one seen at rest was done before, and the second may have been under way.
            quiet = quiet or (len(seen) > _SCANS_UNDER_WAY and scan.whole and scan.marked <= 2 * len(state._parked))
        return "" if quiet else "no quiet scan yet"

    def _position(self, partition: int) -> int:
        cursor = self.box.inner._cursors.get(f"vast_events/{partition}")
        return cursor.position.get(str(partition), 0) if cursor is not None else 0

    async def _stop_all(self, loop: SimLoop) -> None:
        for process in self.processes.values():
            if process.stop is not None:
                process.stop.set()
        await asyncio.sleep(30.0)
        for process in self.processes.values():
            left = [task.get_coro() for task in loop.alive(process)]
            if left or not process.ended:
                self.oracle.fail(f"{process.name} did not end: {left}")

    # ------------------------------------------------------------------------------------------------------------- faults

    def _fault(self, act: Act) -> None:
        self.count(act.kind)
        getattr(self, f"_fault_{act.kind}")(act, self.processes.get(act.other) or next(iter(self.processes.values())))

    def _fault_crash(self, act: Act, process: Process) -> None:
        del act
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        loop.kill(process)
        loop.call_later(_RESTART_SECONDS, self.start, process.name)

    def _fault_graceful(self, act: Act, process: Process) -> None:
        del act
        if process.stop is None:
            return
        process.stop.set()
        asyncio.get_running_loop().create_task(self._start_when_ended(process))

    async def _start_when_ended(self, process: Process) -> None:
        while not process.ended and not process.dead:
            await asyncio.sleep(0.5)
        if process.ended and self.processes.get(process.name) is process:
            self.start(process.name)

    def _fault_pause(self, act: Act, process: Process) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        if not process.dead:
            loop.pause(process, act.amount)

    def _fault_jump(self, act: Act, process: Process) -> None:
        process.clock.off_us += int(act.amount * 1_000_000)

    def _fault_state_away(self, act: Act, process: Process) -> None:
        del process
        self.box.away_until = asyncio.get_running_loop().time() + act.amount

    def _fault_side_away(self, act: Act, process: Process) -> None:
        del process
        self.servers[act.side].away_until = asyncio.get_running_loop().time() + act.amount

    def _fault_tail_lost(self, act: Act, process: Process) -> None:
        del process
        self.oracle.state_lost = True
        self.box.keep()
        asyncio.get_running_loop().call_later(act.amount, self.box.fail_over)

    def _fault_flush(self, act: Act, process: Process) -> None:
        del act, process
        self.oracle.state_lost = True
        self.box.flush()

    def _fault_container_gone(self, act: Act, process: Process) -> None:
        del process
        server = self.servers[act.side]
        server.missing_container = True
        asyncio.get_running_loop().call_later(act.amount, setattr, server, "missing_container", False)

    def _fault_emptied(self, act: Act, process: Process) -> None:
        del process
        for key, held in list(self.servers[act.side].objects.items()):
            self.users.supersede(act.side, key, held, how="delete")
        self.servers[act.side].watched.vanish()

    def _fault_retention(self, act: Act, process: Process) -> None:
        del act, process
        self.topic.truncate()

    def _fault_replay(self, act: Act, process: Process) -> None:
        del process
        self.deliveries[act.side].replay(int(act.amount))


def _short(held: _Object | None) -> str:
    if held is None:
        return "-"
    content, user = value_of(held)
    return f"{content[:14]!r}{dict(user) or ''}@{held.etag[-6:]}{'*' if held.stamp else ''}"
