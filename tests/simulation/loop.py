"""An asyncio event loop with virtual time and seeded scheduling.

Time moves only when nothing is ready, then straight to the next timer. Which ready task runs next is drawn from the seed, as a
priority that depends on the task's serial number and step alone: so the order in which a set happened to be walked changes
nothing, and a seed replays exactly. To cut a failing run down, only some of the choices are drawn (``Spans``). Tasks belong to
simulated processes; a killed process never runs again, not even its ``finally``.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextvars import Context, ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar, cast

_T = TypeVar("_T")
_MIX = 0x9E3779B97F4A7C15
_FORGET_EVERY = 500
_MASK = (1 << 64) - 1


_FOREVER: list[object] = []
"""What killed processes left suspended: collecting it would run its ``finally`` blocks, in the middle of another world."""


class Stuck(Exception):
    """Nothing is ready and no timer is set, or far too many steps were taken."""


Spans = tuple[tuple[int, int], ...]
"""Which choices of the schedule are drawn, by their number, as half-open spans; all others are first come, first served."""


class Unit:
    """What is killed and paused as one: a simulated process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.paused_until: float | None = None
        self.kept: list[asyncio.Handle] = []

    def __repr__(self) -> str:
        return self.name


UNIT: ContextVar[Unit | None] = ContextVar("unit", default=None)
"""The simulated process that the running task belongs to; None: the world outside."""


@dataclass(slots=True)
class _Known:
    serial: int
    unit: Unit | None
    steps: int = 0


class SimLoop:
    """See the module. Only what the engine uses of a loop is there; anything else is an AttributeError."""

    def __init__(self, seed: int, drawn: Spans | None = None) -> None:
        self._seed = seed & _MASK
        self._drawn = drawn
        self.choices = 0
        """How often a task became ready, and its turn was chosen."""
        self._now = 0.0
        self._soon: deque[asyncio.Handle] = deque()
        self._ready: list[tuple[int, int, asyncio.Handle]] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._serial = count()
        self._tasks: dict[Any, _Known] = {}
        """Strong: a suspended task that only its own future knows would be collected."""
        self._task_serial = count(1)
        self._graveyard = _FOREVER
        self._running = False
        self.steps = 0
        self.errors: list[dict[str, Any]] = []

    # -------------------------------------------------------------------------------------------------------- running

    def run(self, main: Coroutine[Any, Any, _T], *, max_steps: int = 3_000_000) -> _T:
        """Run *main* to its end. Raises Stuck."""
        with self._current():
            task = self.create_task(main)
            while not task.done():
                self._step(max_steps)
        return task.result()

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._close_generator)
        asyncio._set_running_loop(cast("Any", self))
        self._running = True
        try:
            yield
        finally:
            self._running = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not (unit := UNIT.get()) or not unit.dead:
            self.create_task(generator.aclose())

    def _step(self, max_steps: int) -> None:
        if self._soon:
            handle = self._soon.popleft()
        elif self._ready:
            handle = heapq.heappop(self._ready)[2]
        else:
            self._advance()
            return
        if handle.cancelled() or self._withheld(handle):
            return
        self.steps += 1
        if self.steps > max_steps:
            raise Stuck(f"{self.steps} steps at {self._now:.3f} s")
        handle._run()

    def _withheld(self, handle: asyncio.Handle) -> bool:
        unit = handle._context.get(UNIT)  # type: ignore[attr-defined]
        if unit is None:
            return False
        if unit.dead:
            self._graveyard.append(handle)
            return True
        if unit.paused_until is not None:
            unit.kept.append(handle)
            return True
        return False

    def _advance(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            raise Stuck("nothing will ever happen again")
        self._now = max(self._now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now:
            timer = heapq.heappop(self._timers)[2]
            if not timer.cancelled():
                self._enqueue(timer)

    def _enqueue(self, handle: asyncio.Handle) -> None:
        owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
        known = self._tasks.get(owner) if isinstance(owner, asyncio.Task) else None
        if known is None:
            self._soon.append(handle)  # bookkeeping of futures; not a choice
            return
        known.steps += 1
        self.choices += 1
        heapq.heappush(self._ready, (self._turn(known), next(self._serial), handle))

    def _turn(self, known: _Known) -> int:
        """The priority of a ready task, the lowest first."""
        if self._drawn is not None and not any(start <= self.choices < end for start, end in self._drawn):
            return _MASK >> 1  # behind half of the drawn ones, and in order among themselves
        draw = ((self._seed ^ (known.serial * _MIX)) + known.steps * 0xBF58476D1CE4E5B9) & _MASK
        draw = ((draw ^ (draw >> 30)) * 0x94D049BB133111EB) & _MASK
        return draw ^ (draw >> 31)

    # ------------------------------------------------------------------------------------------------------ processes

    def kill(self, unit: Unit) -> None:
        """SIGKILL: nothing of *unit* runs again."""
        unit.dead = True
        self._graveyard += unit.kept
        unit.kept = []
        # Whoever is suspended there stays so: dropping a coroutine would run its finally blocks.
        self._graveyard += [task for task, known in self._tasks.items() if known.unit is unit]

    def pause(self, unit: Unit, seconds: float) -> None:
        """Nothing of *unit* runs for a while; time passes it by."""
        unit.paused_until = self._now + seconds
        self.call_later(seconds, self._resume, unit, context=Context())

    def _resume(self, unit: Unit) -> None:
        unit.paused_until = None
        kept, unit.kept = unit.kept, []
        for handle in kept:
            self._enqueue(handle)

    def alive(self, unit: Unit) -> list[asyncio.Task[Any]]:
        """Unfinished tasks of *unit*."""
        return [task for task, known in self._tasks.items() if known.unit is unit and not task.done()]

    # -------------------------------------------------------------------------------------------------- AbstractEventLoop

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Whether ``run`` is."""
        return self._running

    def is_closed(self) -> bool:
        """Never."""
        return False

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        """As in asyncio, in seeded order."""
        handle = asyncio.Handle(callback, args, cast("Any", self), context)
        self._enqueue(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As in asyncio."""
        return self.call_at(self._now + max(0.0, delay), callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As in asyncio."""
        timer = asyncio.TimerHandle(when, callback, args, cast("Any", self), context)
        heapq.heappush(self._timers, (when, next(self._serial), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are skipped when their time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        """As in asyncio."""
        return asyncio.Future(loop=cast("Any", self))

    def create_task(
        self, coro: Coroutine[Any, Any, _T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[_T]:
        """As in asyncio; the task gets its serial number."""
        # The first step is scheduled inside the constructor, before the task can be known here.
        before = len(self._soon)
        task: asyncio.Task[_T] = asyncio.Task(coro, loop=cast("Any", self), name=name, context=context)
        unit = context.get(UNIT) if context is not None else UNIT.get()
        self._tasks[task] = known = _Known(next(self._task_serial), unit)
        if known.serial % _FORGET_EVERY == 0:
            self._tasks = {one: what for one, what in self._tasks.items() if not one.done()}
        if len(self._soon) > before:
            self._enqueue(self._soon.pop())
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """At once, in this thread."""
        del executor
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - handed to whoever awaits, as an executor does
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Kept: a fault that nobody awaited is a finding."""
        task = context.get("task")
        known = self._tasks.get(task) if isinstance(task, asyncio.Task) else None
        if known is not None and known.unit is not None and known.unit.dead:
            return
        self.errors.append(context)
