"""When a world is at rest, and the operator who looks after it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from federation.progress import UNION_NOTE
from federation.sources import change_feed
from federation.state.memory_state import MemoryState
from operations.heartbeat import tell_clocks
from reconciler.report import Report

if TYPE_CHECKING:
    from tests.simulation.world import World

CONVERGE_SECONDS = 1800.0
"""Virtual time within which a world must have converged once nothing fails any more."""
_QUIET_SECONDS = 60
"""Of a world without scans: how long nothing may be on its way."""
_SCANS_UNDER_WAY = 2
_LOOKS = 300
_TRIES_EVERY_SECONDS = 5.0
_TRIES = 4
LIFTED_SECONDS = 60.0
"""How long an operator's word that a side may be empty may still be at work in a scan."""


class Rest:
    """Brings a world to rest."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.lifted_at = -LIFTED_SECONDS
        """When the operator last allowed a side to be empty."""
        self._scans_seen: dict[str, list[Report]] = {}
        self._quiet = 0
        self._held_at: dict[str, float] = {}
        """Held deletes that wait for an answer, and since when."""
        self._tried_at = 0.0
        self._tries = 0
        self._commands: set[asyncio.Task[None]] = set()
        """Words of the operator that did not reach the state yet."""
        self._told_off: set[str] = set()
        """Keys left as they are because their writer does not stop: every scan looks at them once more."""

    async def come(self) -> bool:
        """Whether it came to rest in time; the oracle is told when not."""
        world, loop = self._world, asyncio.get_running_loop()
        why = ""
        deadline = loop.time() + CONVERGE_SECONDS + world.script.rates.late_seconds
        while loop.time() < deadline:
            await asyncio.sleep(1.0)
            self._operator()
            why = self._restless()
            if not why:
                return True
        state = world.box.inner
        left = {"dirty": list(state._dirty.items()), "parked": list(state._parked.values()), "halts": list(state._halts)}
        world.oracle.fail(f"not at rest after {CONVERGE_SECONDS} s: {why}: {left}")
        return False

    async def between_scans(self) -> None:
        """Wait for a moment when no scan has just marked what is left as it is."""
        for _ in range(_LOOKS):
            if not self._world.box.inner._dirty:
                return
            await asyncio.sleep(0.1)
        self._world.oracle.fail("dirty again, after everything was at rest")

    def _operator(self) -> None:
        """The person on call: lifts halts, and answers held deletes."""
        world, state = self._world, self._world.box.inner
        for name in list(state._halts):
            if not state._halts[name].self_lifting:
                world.note(f"operator lifts {name}")
                self.lifted_at = asyncio.get_running_loop().time()
                del state._halts[name]
                side = name.removeprefix("side_emptied_")
                if side != name:
                    state._notes[f"may_be_empty:{side}"] = b"1"
        now = asyncio.get_running_loop().time()
        self._held_at = {key: self._held_at.get(key, now) for key, one in state._held.items() if not one.verdict}
        held = [key for key, at in self._held_at.items() if now >= at + world.script.patience_seconds]
        refused = [key for key in held if world.script.rejects and sum(key.encode()) % 2]
        for verdict, keys in (("rejected", refused), ("released", [key for key in held if key not in refused])):
            if keys and world.processes:
                self._judge(verdict, keys)
        if world.processes:
            self._try_again()

    def _judge(self, verdict: str, keys: list[str]) -> None:
        world, state = self._world, self._world.box.inner
        now = asyncio.get_running_loop().time()
        if verdict == "released":
            world.oracle.released.update(keys)
        else:
            # Of what neither side holds any more nothing is left to keep.
            there = {key for key in keys if any(key in server.objects for server in world.servers.values())}
            world.oracle.rejected.update({(key, state._held[key].delete_on): now for key in there})
        world.note(f"operator: {verdict} {keys}")
        self._command(lambda state, now_us: state.judge(keys, verdict=verdict, now_us=now_us))

    def _try_again(self) -> None:
        """Now and then a person tries again what is parked."""
        world, now = self._world, asyncio.get_running_loop().time()
        keys = sorted(world.box.inner._parked)
        if not world.script.retries or not keys or now < self._tried_at + _TRIES_EVERY_SECONDS or self._tries >= _TRIES:
            return
        self._tried_at, self._tries = now, self._tries + 1
        world.exercised["parked key tried again"] += len(keys)
        world.oracle.retried.update(keys)
        world.note(f"operator: tries again {keys}")
        self._command(lambda state, now_us: state.unpark(keys, now_us=now_us))

    def _command(self, step: Callable[[MemoryState, int], Awaitable[object]]) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(step))
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)

    async def _carry_out(self, step: Callable[[MemoryState, int], Awaitable[object]]) -> None:
        """As ``fedplane`` does (fedplane/commands/operator.py): what the sides' clocks show is known from the processes alone."""
        state = self._world.box.inner
        clock = state._clock = next(iter(self._world.processes.values())).clock
        now_us = clock.now_us()
        await tell_clocks(state, now_us)
        state._clock = clock
        await step(state, now_us)

    def _restless(self) -> str:
        """Why the world is not at rest: something on its way, dirty, or no whole scan since then that found nothing."""
        world, state = self._world, self._world.box.inner
        topic = world.topic
        behind = any(
            max(self._position(number), topic.first[number]) < len(records) for number, records in enumerate(topic.partitions)
        )
        moving = {
            "events under way": any(delivery.under_way for delivery in world.deliveries.values()),
            "messages in the queue": world.queue.messages,
            "topic not read": behind,
            "change feed not read": world.feed is not None and world.feed.unread(state._cursors.get(change_feed.NAME)),
            "dirty": state._dirty.keys() - self._told_off,
            "an operator's command": self._commands,
            "halted": state._halts,
            "held": state._held,
            "parked": [one for one in state._parked.values() if one.reason != "revert_limit"],
        }
        self._told_off |= {key for key, one in state._parked.items() if one.reason == "revert_limit"}
        busy = [name for name, value in moving.items() if value]
        if busy:
            self._scans_seen.clear()
            self._quiet = 0
            return ", ".join(busy)
        if state._dirty:
            return "a scan has marked what is left as it is"
        self._quiet += 1
        if not world.script.scans:
            if world.script.scan_at_start and state._notes.get(UNION_NOTE):
                return "the first scan is not over"
            return "" if self._quiet > _QUIET_SECONDS else "not quiet for long"
        return "" if self._scanned() else "no quiet scan yet"

    def _scanned(self) -> bool:
        """Whether a whole scan began and ended at rest and found nothing."""
        quiet = False
        for process in self._world.processes.values():
            scan = process.engine.scan.last if process.engine is not None and not process.dead else None
            if scan is None:
                continue
            seen = self._scans_seen.setdefault(process.name, [])
            if not seen or seen[-1] is not scan:
                seen.append(scan)
            # The first one seen at rest was done before, and the second may have been under way.
            still = scan.whole and scan.marked <= 2 * len(self._world.box.inner._parked)
            quiet = quiet or (len(seen) > _SCANS_UNDER_WAY and still)
        return quiet

    def _position(self, partition: int) -> int:
        cursor = self._world.box.inner._cursors.get(f"vast_events/{partition}")
        return cursor.position.get(str(partition), 0) if cursor is not None else 0
