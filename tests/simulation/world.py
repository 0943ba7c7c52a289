"""One simulated world: two sides, a state, channels, processes, users, faults and the oracle."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import msgspec

from federation.capabilities import Capabilities
from federation.model import PRESERVED_PREFIX, Side
from federation.progress import Cursor
from federation.settings import Settings
from federation.sources import change_feed
from federation.stores.memory import _Object
from reconciler.report import Report
from reconciler.scan import LAST
from tests.simulation import channels
from tests.simulation.channels import Delivery, Queue, Told, Topic
from tests.simulation.convergence import Convergence
from tests.simulation.faults import Faults
from tests.simulation.feed import FeedLog
from tests.simulation.loop import UNIT, SimLoop, Stuck
from tests.simulation.oracle import Oracle
from tests.simulation.processes import Process, replaced, settings_of
from tests.simulation.progress import Progress
from tests.simulation.rest import LIFTED_SECONDS, Rest
from tests.simulation.script import PROCESSES, Rates, Script
from tests.simulation.sides import START_US, Server, SideClock
from tests.simulation.statebox import StateBox
from tests.simulation.users import Users
from tests.simulation.values import value_of

_LOOKS_ON_SECONDS = 30.0
"""How long a world without scans is watched once it is at rest."""
PROBE_PREFIX = f"{PRESERVED_PREFIX}probe/"
"""What is written there at a start only asks what the server can do."""
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
    choices: int
    exercised: Counter[str]
    """How often what is rare and must be looked at happened at all."""
    trace: list[str] = field(default_factory=list)


class World:
    """Made of a script; ``run`` it once."""

    def __init__(self, script: Script, *, traced: bool = False) -> None:
        self.script = script
        self.oracle = Oracle(script, lambda: self.box.inner)
        self.faults: Counter[str] = Counter()
        self.exercised: Counter[str] = Counter()
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
        vast = self.servers[Side.VAST]
        vast.capabilities = replace(vast.capabilities, **dict.fromkeys(script.ignored, False))
        for side, server in self.servers.items():
            server.capabilities = replace(server.capabilities, versioning=script.keeps_versions(side))
        self.oracle.servers = self.servers
        self.progress = Progress(self.oracle, lambda: self.box.inner, lambda: self.box.losses)
        self.box = StateBox(script.shards, self.progress.heard, self.oracle.fail, self.oracle.lost)
        self.queue, self.poison, self.topic = Queue(), Queue(), Topic()
        rng = Random(f"{script.seed} delivery")
        self.deliveries = {
            Side.BLOB: Delivery(rng, self._grid_rates, self.count, self.queue.add),
            Side.VAST: Delivery(rng, self.rates, self.count, self.topic.add),
        }
        self.feed: FeedLog | None = None
        self.processes: dict[str, Process] = {}
        self.started = 0
        self.users = Users(self)
        self.breaks = Faults(self)
        self.rest = Rest(self)
        self.convergence = Convergence(self)

    # ----------------------------------------------------------------------------------------------------- small services

    def _feed_log(self) -> FeedLog:
        rng = Random(f"{self.script.seed} feed")
        return FeedLog(rng, self.script.feed_lag_seconds, self.rates, self.count, self.servers[Side.BLOB].clock.now_us)

    def rates(self) -> Rates:
        """Of faults now; none once the world is calm."""
        return Rates(latency_seconds=self.script.rates.latency_seconds) if self.calm else self.script.rates

    def _grid_rates(self) -> Rates:
        rates, lost = self.rates(), 0.0 if self.calm else self.script.grid_lost
        return replace(rates, event_lost=max(rates.event_lost, lost))

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
        other = self.script.mixed_settings and process != PROCESSES[0]
        return settings_of(self.script, other=other, later=self.script.new_settings and self.started > self.script.processes)

    # --------------------------------------------------------------------------------------------------- what is observed

    def _changed(self, server: Server, key: str, before: _Object | None, after: _Object | None) -> None:
        by_user = UNIT.get() is None
        self.note(f"{server.side}:{key} {_short(before)} => {_short(after)}")
        if by_user:
            self.oracle.user_acts[server.side, key] += 1
            self.convergence.act(server.side, key)
        else:
            self.oracle.mutations += not key.startswith(PROBE_PREFIX)
            if not key.startswith(PRESERVED_PREFIX):
                self.oracle.engine_changed(server.side, key, before, after)
        if not server.told:
            return
        at_us, now = server.clock.now_us(), asyncio.get_running_loop().time()
        if server.side is Side.BLOB:
            self._tell_of_blob(key, before, after, at_us)
            return
        gone = "ObjectRemoved:DeleteMarkerCreated" if self.script.keeps_versions(Side.VAST) else "ObjectRemoved:Delete"
        name = "ObjectCreated:Put" if after is not None else gone
        body = channels.vast_event(key, name, after.etag if after else None, at_us)
        self.deliveries[Side.VAST].send(Told(Side.VAST, key, body, now))

    def _tell_of_blob(self, key: str, before: _Object | None, after: _Object | None, at_us: int) -> None:
        metadata_only = before is not None and after is not None and after.data is before.data
        etag = after.etag if after is not None else None
        told = Told(Side.BLOB, key, channels.blob_event(key, etag, at_us), asyncio.get_running_loop().time(), at_us)
        if not metadata_only:  # of which Event Grid tells nothing
            self.deliveries[Side.BLOB].send(told)
        if self.feed is not None:
            kind = "BlobPropertiesUpdated" if metadata_only else "BlobCreated" if after is not None else "BlobDeleted"
            self.feed.note(told, kind, etag, at_us, versioned=self.script.keeps_versions(Side.BLOB))

    def observe(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        """A state call took effect."""
        self.progress.called(name, arguments, result)
        if name == "mark":
            for change in arguments[0]:
                self.note(f"mark {change.side}:{change.key} {change.source} {change.etag} deleted={change.deleted} {result}")
        elif name == "move_cursor" and result:
            self._cursor_moved(*arguments)
        elif name == "put_note" and arguments[0] == LAST:
            self._scanned(msgspec.json.decode(arguments[1], type=Report))
            self.convergence.scanned()
        if name in {"settle", "park", "hold", "defer", "record_conflict", "halt", "judge"}:
            self.note(f"{name} {arguments[1:] or arguments} {named or ''} {result}")

    def _scanned(self, report: Report) -> None:
        """A scan tells of itself: whole only if no listing of it failed, and never that a side was emptied (rules 3 and 8)."""
        process = UNIT.get()
        if not report.complete or report.prefix or report.resumed or not isinstance(process, Process):
            return  # of a resumed one a listing may have failed, in a range that was then begun anew
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
                and self.rest.lifted_at + LIFTED_SECONDS < started
                and report.listed[side.other]
                and not report.listed[side]
            ):
                self.oracle.fail(f"a scan believed that all of {side} is gone")

    def _cursor_moved(self, name: str, before: Cursor | None, cursor: Cursor) -> None:
        if self.feed is not None and name == change_feed.NAME:
            self.exercised += self.feed.moved(before, cursor)
            for told in self.feed.read_to(cursor):
                self.progress.acknowledged(told)
            return
        for partition, at in cursor.position.items():
            for record in self.topic.partitions[int(partition)][self.topic.first[int(partition)] : at]:
                self.progress.acknowledged(record.told)

    # ------------------------------------------------------------------------------------------------------------ running

    def run(self) -> Outcome:
        """From the first act to the last check."""
        random.seed(self.script.seed)  # back-off jitter
        loop = SimLoop(self.script.seed, self.script.drawn)
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
            sum(len(delivery.past) for delivery in self.deliveries.values()) + (self.feed.told if self.feed else 0),
            len(self.oracle.writes),
            len(self.box.inner._conflicts),
            loop.choices,
            self.exercised,
            self.trace or [],
        )

    async def _main(self, loop: SimLoop) -> None:
        self.feed = self._feed_log() if self.script.feed_lag_seconds else None
        for name in PROCESSES[: self.script.processes]:
            self.start(name)
        self.convergence.start()
        acts = sorted(
            [(act, self.users.do) for act in self.script.users] + [(act, self.breaks.do) for act in self.script.faults],
            key=lambda pair: pair[0].at,
        )
        for act, do in acts:
            await asyncio.sleep(max(0.0, act.at - loop.time()))
            self.note(f"ACT {act}")
            do(act)
        await asyncio.sleep(max(0.0, self.script.end - loop.time()))
        self._heal()
        if not await self.rest.come():
            return
        if self.oracle.state_lost:
            await asyncio.sleep(RELIST_SECONDS + 2 * self.script.scan_seconds)
        await self.rest.between_scans()
        self.oracle.settle_accounts(self.box.inner)
        await self.convergence.at_rest()
        before = self.oracle.mutations
        await asyncio.sleep(2 * self.script.scan_seconds + 5 if self.script.scans else _LOOKS_ON_SECONDS)
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

    async def _stop_all(self, loop: SimLoop) -> None:
        for process in self.processes.values():
            if process.stop is not None:
                process.stop.set()
        await asyncio.sleep(30.0)
        for process in self.processes.values():
            left = [task.get_coro() for task in loop.alive(process)]
            if left or not process.ended:
                self.oracle.fail(f"{process.name} did not end: {left}")


def _short(held: _Object | None) -> str:
    if held is None:
        return "-"
    content, user = value_of(held)
    return f"{content[:14]!r}{dict(user) or ''}@{held.etag[-6:]}{'*' if held.stamp else ''}"
