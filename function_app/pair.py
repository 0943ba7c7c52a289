"""One pair in one process of the app: marks, and the work on what was marked, both inside an invocation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from federation.errors import FederationError, Halt, RetryLater
from federation.model import Change, Side
from federation.progress import HaltRecord, MarkResult
from federation.rules.guards import SELF_LIFTING_HALTS
from federation.settings import Settings
from federation.sources.common import Tell
from federation.sync.drain import Rest, ShardWorker
from federation.sync.gates import PaceShare
from federation.telemetry import logger
from federation.wiring import PairRuntime, open_or_begin, owner_name, worker_limits
from function_app import visit
from function_app.bells import Bells
from function_app.queues import Queues
from operations import capabilities, heartbeat
from operations.heartbeat import Heartbeat
from operations.lost_marks import LostMarks
from operations.publish import Told
from operations.sides import prove
from reconciler import wanted

SPEAKS_SECONDS = 150.0
"""How long a word of the app holds: its sweep speaks each minute."""
SLOW_US = 10_000_000
"""What waits longer than this is told to wait: what comes in a busy moment is taken within seconds."""
SHARES_SECONDS = 3.0
"""How often processes at work tell each other of rest that a side asked for, and divide the rates."""
_TELL_SECONDS = 10.0
_PROVE_AGAIN_SECONDS = 5.0
_log = logger("fedplane.functions")


class FunctionPair:
    """``ports.ChangeSink`` of an opened pair. What was marked is worked on at once if its shard is free, else a bell is rung."""

    def __init__(self, config: Settings, runtime: PairRuntime, queues: Queues) -> None:
        self.config = config
        self.runtime = runtime
        self.settings = runtime.settings
        self.state = runtime.state
        self.clock = runtime.context.clock
        self.worker = ShardWorker(runtime.context, runtime.gates, worker_limits(config), owner=owner_name())
        self.bells = Bells(self.name, self.state, queues, config.functions.doorbell_queue, config.worker.lease_seconds)
        self.tells: dict[str, Tell] = {}
        self.lost_marks = LostMarks(self.state, self.clock, _noted)
        runtime.sink = self
        self.on_read: Callable[[Told, Told], None] = lambda *_: None
        """Hears what a reader counts; readers live as long as an invocation, and this process's word holds nothing of them."""
        self._started_us = self.clock.now_us()
        self._pace = PaceShare(self.state, runtime.gates, self.clock, owner_name())
        self._told = self._tried = self._shared = float("-inf")
        self._proving = asyncio.Lock()
        self.scanning: set[str] = set()
        """Prefixes that invocations of this process scan now."""
        self.proved = False
        """Whether both sides answered and are the ones of the records."""

    @property
    def name(self) -> str:
        """Of the pair."""
        return self.settings.name

    def tell(self, source: str) -> Tell:
        """The counts of *source* in this process."""
        return self.tells.setdefault(source, Tell(source))

    # -------------------------------------------------------------------------------------------------------------- marks

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As ``State.mark``. Once it returned the marks are durable, and somebody will come for them."""
        result = await self.runtime.context.mark(changes)
        if result.marked:
            await self.follow({self.state.shard_of(change.key) for change in changes})
        return result

    async def gap(self, prefix: str = "") -> None:
        """As ``sources.common.OnGap``: ``reconcile_start`` takes it up within a minute."""
        await wanted.ask(self.state, prefix, now_us=self.clock.now_us())

    async def follow(self, shards: Iterable[int]) -> None:
        """See to it that *shards*, where something was marked, are worked on: here, else by whoever is called."""
        now = visit.current()
        for shard in sorted(shards):
            if self.worker.poke(shard):
                continue  # an invocation of this process is at it, and looks again before it ends
            if now is not None and now.takes_more:
                now.add(self.work_on(shard, now))
            else:
                await self.bells.ring(shard)

    # --------------------------------------------------------------------------------------------------------------- work

    async def work_on(self, shard: int, during: visit.Visit) -> None:
        """Drain *shard* for the time that is left, and call for what remains."""
        try:
            if await self.ready():
                rest = await self.worker.drain(shard, seconds=during.left_seconds, grace_seconds=visit.GRACE_SECONDS)
                await self._see_to(shard, rest)
            else:
                await self.bells.ring(shard, later=True)
        except RetryLater as error:
            _log.warning("the state cannot be reached; the sweep will call", pair=self.name, shard=shard, error=str(error))

    async def _see_to(self, shard: int, rest: Rest) -> None:
        if rest.due_us is None or rest.halted:
            return  # a halt may last for days: the sweep looks each minute
        wait_seconds = (rest.due_us - self.clock.now_us()) / 1_000_000
        if rest.busy or rest.resting or 0 < wait_seconds <= self.bells.later_seconds:
            await self.bells.ring(shard, later=True)
        elif wait_seconds <= 0:
            await self.bells.ring(shard)

    async def ready(self) -> bool:
        """Whether both sides can be worked with; asked of them until they could be, not too often. Raises RetryLater."""
        async with self._proving:
            now = self.clock.monotonic_seconds()
            if self.proved or now - self._tried < _PROVE_AGAIN_SECONDS:
                return self.proved
            self._tried = now
            try:
                await prove(self.runtime, probe_again=False)
            except Halt as error:
                await self._halt(error)
            except FederationError as error:
                _log.warning("waiting for a side", pair=self.name, error=str(error))
            else:
                self.proved = True
            return self.proved

    async def assumed(self) -> tuple[Side, ...]:
        """Sides of which is not known what their servers can do; nothing is tried to find out. Raises RetryLater."""
        async with self._proving:  # else it might undo what is found out meanwhile
            return () if self.proved else await capabilities.recall(self.runtime)

    async def age_us(self, side: Side, at_us: int) -> int:
        """How long ago it was *at_us* by the clock of *side*."""
        return self.clock.now_us() + (await self.runtime.stores[side].clock_skew()).us - at_us

    async def look_at_sides(self) -> None:
        """Ask a side that nobody asked anything lately whether it is there, so that status does not rest on silence."""
        if not await self.ready():
            return
        for side, gate in self.runtime.gates.items():
            if self.clock.monotonic_seconds() - gate.answered_seconds < SPEAKS_SECONDS / 5:
                continue
            try:
                await self.runtime.stores[side].check()
            except Halt as error:
                await self._halt(error)
            except FederationError as error:
                _log.warning("side does not answer", pair=self.name, side=side, error=str(error))

    async def _halt(self, error: Halt) -> None:
        name = error.reason or "halted"
        _log.error("the pair is halted", pair=self.name, halt=name, error=str(error))
        await self.state.halt(HaltRecord(name, str(error), self.clock.now_us(), self_lifting=name in SELF_LIFTING_HALTS))

    async def notice_lost_state(self) -> None:
        """A state that was emptied is begun anew, in union mode: ``reconcile_start`` then sees that a whole scan is due."""
        if not await open_or_begin(self.state, self.settings, self.clock):
            _log.error("the state in Redis was emptied: union mode until a whole scan, nothing is deleted", pair=self.name)

    # ------------------------------------------------------------------------------------------------------------- telling

    async def beat(self, name: str = "", sources: dict[str, dict[str, Any]] | None = None, *, fresh_seconds: float) -> Heartbeat:
        """What is told of this process, or, with *name*, of a task that one of all processes does at a time."""
        counted = {source: tell.as_dict() for source, tell in self.tells.items()}
        return Heartbeat(
            process=name or owner_name(),
            at_us=self.clock.now_us(),
            started_us=self._started_us,
            ready=self.proved,
            sides={side: await self._side_health(side) for side in Side},
            sources=dict(counted) if sources is None else sources,
            scan={},
            worker={} if name else self.worker.stats.as_dict(),
            in_flight=self.worker.in_flight,
            shards=self.worker.shards_held,
            rss_bytes=heartbeat.rss_bytes(),
            cpu_seconds=heartbeat.cpu_seconds(),
            fresh_seconds=fresh_seconds,
        )

    async def _side_health(self, side: Side) -> heartbeat.SideHealth:
        store, gate = self.runtime.stores[side], self.runtime.gates[side]
        return await heartbeat.side_health(store, gate, self.clock, silent_seconds=SPEAKS_SECONDS)

    async def say(self, name: str = "", sources: dict[str, dict[str, Any]] | None = None) -> None:
        """Tell it. Raises RetryLater."""
        await heartbeat.say(self.state, await self.beat(name, sources, fresh_seconds=SPEAKS_SECONDS))

    async def say_now_and_then(self) -> None:
        """This process's own word, and a look whether marks were lost, during and after invocations. Raises RetryLater."""
        now = self.clock.monotonic_seconds()
        if now - self._shared >= SHARES_SECONDS:
            self._shared = now
            await self._pace.exchange()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            await self.say()
            await self.lost_marks.look()


def _noted() -> None:
    """Lost marks are noted in the state before this is called; ``reconcile_start`` reads the note."""
