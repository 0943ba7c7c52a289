"""Small worlds of the functions app: instances that are frozen after each invocation or killed in one, on virtual time.

The app's own marks, drains, doorbells and sweep run over in-memory state and stores whose every call takes a while, so that what
instances do is interleaved by the seed. The world's host delivers messages as the storage extension does: again, when an
invocation failed or its instance was killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import msgspec

from federation.model import Change, Metadata, Side, Source
from federation.progress import DeleteBudget
from federation.rules.decision import Rules
from federation.state.memory_state import MemoryState
from federation.stores.memory import MemoryStore
from federation.sync.budget import ByteBudget
from federation.sync.context import PairContext
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import Gate
from federation.sync.transfer import Transfer, TransferLimits
from federation.wiring import PairRuntime
from function_app import calls, sweeping
from function_app.pair import FunctionPair
from function_app.visit import visit
from tests.simulation.draw import draw
from tests.simulation.loop import UNIT, SimLoop, Unit
from tests.simulation.processes import ProcessClock, settings_of

AGAIN_SECONDS = 30.0
"""``visibilityTimeout`` of host.json."""
MINUTE_SECONDS = 60.0
DRAIN_SECONDS = 10.0
_FOREVER_SECONDS = 1e6
_KILLED = 0.2
"""Share of invocations in which the instance is killed."""


class Slowly:
    """Any object; each of its async calls takes a moment before and after it is done."""

    def __init__(self, inner: object, rng: Random, names: frozenset[str]) -> None:
        self._inner = inner
        self._rng = rng
        self._names = names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found

        async def slowly(*args: object, **named: object) -> object:
            # Between the last claim and the release is where a wake-up could be lost.
            await asyncio.sleep(self._rng.uniform(0, 0.3 if name == "release" else 0.03))
            result = await found(*args, **named)
            await asyncio.sleep(self._rng.uniform(0, 0.03))
            return result

        return slowly


_STATE = frozenset(
    {"mark", "acquire", "renew", "release", "claim", "settle", "defer", "waiting", "own", "disown", "bases", "halts"}
)
_STORE = frozenset({"head", "open", "put", "delete", "check"})


class Instance(Unit):
    """One worker process with the pair opened."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(f"i{number}")
        clock = cast("Any", ProcessClock())
        state = cast("Any", Slowly(world.state, world.rng, _STATE))
        gates = {side: Gate(side, clock) for side in Side}
        stores = {side: PacedStore(cast("Any", Slowly(world.stores[side], world.rng, _STORE)), gates[side]) for side in Side}
        context = PairContext(
            name="sim",
            stores=stores,
            state=state,
            clock=clock,
            transfer=Transfer(TransferLimits(1 << 20, 1 << 20, 2), ByteBudget(1 << 30)),
            rules=Rules(),
            delete_budget=DeleteBudget(count=1000, share=1.0, window_seconds=600),
            quiet_us=0,
        )
        runtime = PairRuntime(world.settings.pair[0], context, gates, state, cast("Any", None), fresh_state=False)
        self.pair = FunctionPair(world.settings, runtime, cast("Any", world))
        self.pair.proved = True
        self.running = 0


@dataclass
class World:
    """*killing*: instances are killed under way, and the sweep runs. Else none is, and only events and doorbells wake."""

    seed: int
    killing: bool
    rng: Random = field(init=False)
    kills: int = 0
    pending: int = 0
    """Messages that are in a queue or at work."""

    def __post_init__(self) -> None:
        self.rng = Random(f"{self.seed} functions")
        self.clock = cast("Any", ProcessClock())
        settings = settings_of(draw(self.seed), other=False, later=False)
        worker = settings.worker.model_copy(update={"shards": self.rng.choice([1, 1, 2, 4])})
        self.settings = settings.model_copy(update={"worker": worker})
        self.state = MemoryState("sim", shards=self.settings.worker.shards, clock=self.clock)
        self.stores = {side: MemoryStore(side, clock=self.clock) for side in Side}
        self.instances: list[Instance] = []
        self.config = self.settings
        self.loop: SimLoop

    # ------------------------------------------------------------------------------------------- what the app asks of its host

    async def send(self, queue: str, text: str, *, delay_seconds: int = 0) -> None:
        """As ``Queues.send``."""
        del queue
        await asyncio.sleep(self.rng.uniform(0, 0.02))
        self.pending += 1
        call = msgspec.json.decode(text)
        self._outside(self._deliver(lambda one: self._answer(one, text), after=delay_seconds + self.rng.uniform(0, 2.0)))
        assert call["pair"] == "sim"

    def settings_of(self, name: str) -> object:
        """As ``Process.settings_of``."""
        return self.settings if name == "sim" else None

    async def _answer(self, instance: Instance, text: str) -> None:
        process = cast("Any", _As(self, instance))
        async with visit(DRAIN_SECONDS) as during:
            await calls.answer(process, text.encode(), during)

    # ------------------------------------------------------------------------------------------------------------ the host

    def _outside(self, work: Any) -> None:
        context = copy_context()
        context.run(UNIT.set, None)
        self.loop.create_task(work, context=context)

    async def _deliver(self, invoke: Callable[[Instance], Awaitable[None]], *, after: float = 0.0) -> None:
        """One message, until an invocation of it succeeded."""
        await asyncio.sleep(after)
        while not await self._invoked(self.rng.randrange(len(self.instances)), invoke):
            await asyncio.sleep(AGAIN_SECONDS)
        self.pending -= 1

    async def _invoked(self, number: int, invoke: Callable[[Instance], Awaitable[None]]) -> bool:
        """One invocation, in the instance's own process; False when that was killed under way."""
        instance = self.instances[number]
        if instance.paused_until is not None:
            self.loop._resume(instance)
        instance.running += 1
        if self.killing and self.rng.random() < _KILLED:
            self._outside(self._kill_soon(number))
        context = copy_context()
        context.run(UNIT.set, instance)
        task = self.loop.create_task(cast("Any", invoke(instance)), context=context)
        while not task.done():
            await asyncio.sleep(0.01)
            if instance.dead:
                return False
        task.result()
        instance.running -= 1
        if not instance.running:
            self.loop.pause(instance, _FOREVER_SECONDS)  # frozen: nothing of it runs until the next invocation
        return True

    async def _kill_soon(self, number: int) -> None:
        """Kill an instance in the middle of what it does."""
        doomed = self.instances[number]
        await asyncio.sleep(self.rng.uniform(0, 0.4))
        if self.instances[number] is doomed and doomed.running:
            self.kills += 1
            self.loop.kill(doomed)
            self.instances[number] = Instance(self, number)

    async def _sweep_each_minute(self) -> None:
        while True:
            await asyncio.sleep(MINUTE_SECONDS)
            await self._invoked(self.rng.randrange(len(self.instances)), lambda one: sweeping._call(one.pair, cast("Any", self)))

    # ------------------------------------------------------------------------------------------------------------ the users

    async def _write(self, key: str) -> None:
        """A user writes, and Event Grid's message comes some time later, now and then twice."""
        store = self.stores[Side.BLOB]
        old = store.objects.get(key)
        data = f"{key} at {self.loop.time():.3f}".encode()
        written = await store.put(key, data, Metadata(), stamp=None, expected_etag=old.etag if old else None)
        change = Change(key, Side.BLOB, Source.EVENT_GRID, etag=written.etag)
        for _ in range(self.rng.choice([1, 1, 2])):
            self.pending += 1
            self._outside(self._deliver(lambda one: self._take(one, change), after=self.rng.uniform(0, 1.5)))

    async def _take(self, instance: Instance, change: Change) -> None:
        async with visit(DRAIN_SECONDS):
            await instance.pair.mark([change])

    def behind(self) -> list[str]:
        """Keys whose content did not come over."""
        blob, vast = (self.stores[side].objects for side in (Side.BLOB, Side.VAST))
        return [key for key, held in blob.items() if key not in vast or vast[key].data != held.data]

    async def _main(self) -> list[str]:
        self.instances = [Instance(self, number) for number in range(self.rng.choice([1, 2, 3, 4]))]
        writes = self.rng.randrange(5, 25)
        if self.killing:
            self._outside(self._sweep_each_minute())
        for _ in range(writes):
            await self._write(f"k{self.rng.randrange(6)}")
            await asyncio.sleep(self.rng.choice([0.0, 0.05, 0.2, 1.0]))
        if self.killing:
            self.killing = False  # from now on what is promised is measured
            await asyncio.sleep(AGAIN_SECONDS + 2 * MINUTE_SECONDS + self.settings.worker.lease_seconds + DRAIN_SECONDS)
        else:
            while self.pending:
                await asyncio.sleep(0.1)
        return self.behind()

    def run(self) -> list[str]:
        """From the first write on; what did not come over in the time that is promised."""
        self.loop = SimLoop(self.seed)
        behind = self.loop.run(self._main())
        for instance in self.instances:
            self.loop.kill(instance)
        return behind


class _As:
    """What ``calls.answer`` asks of its process, of one instance."""

    def __init__(self, world: World, instance: Instance) -> None:
        self._instance = instance
        self.settings_of = world.settings_of

    async def pair(self, name: str) -> FunctionPair:
        """The only one."""
        assert name == "sim"
        return self._instance.pair
