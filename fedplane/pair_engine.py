"""One pair at work in this process: sources, scan and worker, started and stopped in order, telling how they are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from federation.backoff import backoff_seconds
from federation.errors import FederationError, Halt, RetryLater
from federation.model import Side
from federation.progress import HaltRecord
from federation.rules.guards import SELF_LIFTING_HALTS
from federation.scan_settings import ReconcileSettings
from federation.sync.gates import PaceShare
from federation.sync.stopping import end
from federation.telemetry import logger
from federation.wiring import PairRuntime, build_sources, open_or_begin, owner_name
from operations import heartbeat
from operations.heartbeat import Heartbeat, SideHealth
from operations.lost_marks import LostMarks
from operations.scanning import scanner_of
from operations.sides import prove
from reconciler import wanted
from reconciler.periodic import PeriodicScan

SIDE_SILENT_SECONDS = 5.0
"""A side nobody asked anything for so long is asked whether it is there, so that status does not rest on silence."""
_log = logger("fedplane.engine")


class PairEngine:
    """Runs one pair until told to stop. Only far-end faults are outlived; a fault of ours ends the process, cleanly."""

    def __init__(self, runtime: PairRuntime, reconcile: ReconcileSettings) -> None:
        self.runtime = runtime
        self._clock = runtime.context.clock
        scanner = scanner_of(runtime, reconcile, yields=True)
        self.scan = PeriodicScan(scanner, self._clock, reconcile.interval_seconds, reconcile.on_start)
        self.sources = build_sources(runtime, on_gap=self._want_scan)
        self._pace = PaceShare(runtime.state, runtime.gates, self._clock, owner_name())
        self._lost_marks = LostMarks(runtime.state, self._clock, self.scan.request)
        self._started_us = self._clock.now_us()
        self._ready = False
        self.last: Heartbeat | None = None
        """What was told last."""

    @property
    def name(self) -> str:
        """Of the pair."""
        return self.runtime.settings.name

    async def run(self, stop: asyncio.Event) -> None:
        """Work until *stop*; then sources end first, the worker finishes what it holds, and the leases go back.

        Raises Halt when a container is missing or credentials are refused at start, and whatever ended a part that must not end.
        """
        await heartbeat.forget_old(self.runtime.state, self._clock.now_us())
        await self._lost_marks.begin()
        telling = [self._spawn(self._tell()), self._spawn(self._watch_sides())]
        feeders: list[asyncio.Task[None]] = []
        workers: list[asyncio.Task[None]] = []
        stopping = asyncio.create_task(stop.wait())
        try:
            if not await self._both_sides_answer(stop):
                return
            self._ready = True
            workers = [self._spawn(self.runtime.worker.run())]
            feeders = [self._spawn(self.scan.run()), *(self._spawn(source.run()) for source in self.sources)]
            await asyncio.wait({stopping, *telling, *feeders, *workers}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(feeders)
            for worker in workers:
                worker.cancel()  # once: it drains
            await asyncio.gather(*workers, return_exceptions=True)
            await end(telling)
            stopping.cancel()
            with contextlib.suppress(RetryLater):  # then its heartbeat grows old by itself
                await heartbeat.leave(self.runtime.state, owner_name())
                await self._pace.leave()
        for task in (*workers, *feeders, *telling):
            if not task.cancelled() and task.exception() is not None:
                raise task.exception() or AssertionError("unreachable")

    async def _want_scan(self, prefix: str = "") -> None:
        """A source missed something: kept in the state first, since it then acknowledges what told it so (rule 6)."""
        await wanted.ask(self.runtime.state, prefix, now_us=self._clock.now_us())
        await self.scan.request_asked()

    def _spawn(self, part: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(part)

    async def _both_sides_answer(self, stop: asyncio.Event) -> bool:
        """Wait until both sides can be worked with; False when told to stop first. Raises Halt for what waiting cannot cure."""
        attempts = 0
        while not stop.is_set():
            try:
                await prove(self.runtime, probe_again=True)
            except RetryLater as error:
                _log.warning("waiting for a side", pair=self.name, error=str(error))
                pause = min(10.0, error.after_seconds or backoff_seconds(attempts, first_seconds=0.5))
                attempts += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause)
                continue
            return True
        return False

    # ------------------------------------------------------------------------------------------------------------ telling

    async def _tell(self) -> None:
        while True:
            try:
                await self._notice_lost_state()
                await self.scan.request_asked()
                await self._lost_marks.look()
                await self.scan.lend_a_hand()
                self.last = await self.heartbeat()
                await heartbeat.say(self.runtime.state, self.last)
                await self._pace.exchange()
            except RetryLater as error:
                _log.warning("Redis cannot be reached", pair=self.name, error=str(error))
            await self._clock.sleep(heartbeat.EVERY_SECONDS)

    async def _notice_lost_state(self) -> None:
        if await open_or_begin(self.runtime.state, self.runtime.settings, self._clock):
            return
        _log.error("the state in Redis was emptied: union mode until a whole scan, nothing is deleted", pair=self.name)
        self.scan.request()

    async def _watch_sides(self) -> None:
        while True:
            for side, gate in self.runtime.gates.items():
                if self._clock.monotonic_seconds() - gate.answered_seconds >= SIDE_SILENT_SECONDS:
                    await self._ask(side)
            await self._clock.sleep(1.0)

    async def _ask(self, side: Side) -> None:
        try:
            await self.runtime.stores[side].check()
        except Halt as error:
            if self._ready:
                name = error.reason or "halted"
                record = HaltRecord(name, str(error), self._clock.now_us(), self_lifting=name in SELF_LIFTING_HALTS)
                with contextlib.suppress(RetryLater):
                    await self.runtime.state.halt(record)
        except FederationError as error:
            _log.debug("side does not answer", side=side, error=str(error))

    async def heartbeat(self) -> Heartbeat:
        """How this process is, for status and the live view."""
        runtime = self.runtime
        return Heartbeat(
            process=owner_name(),
            at_us=self._clock.now_us(),
            started_us=self._started_us,
            ready=self._ready,
            sides={side: await self._side_health(side) for side in Side},
            sources={source.name: source.health() for source in self.sources},
            scan=self.scan.health(),
            worker=runtime.worker.stats.as_dict(),
            in_flight=runtime.worker.in_flight,
            shards=runtime.worker.shards_held,
            rss_bytes=heartbeat.rss_bytes(),
            cpu_seconds=heartbeat.cpu_seconds(),
        )

    async def _side_health(self, side: Side) -> SideHealth:
        store, gate = self.runtime.stores[side], self.runtime.gates[side]
        return await heartbeat.side_health(store, gate, self._clock, silent_seconds=3 * SIDE_SILENT_SECONDS)
