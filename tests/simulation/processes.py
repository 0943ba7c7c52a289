"""Simulated processes: the real composition root, engine, worker, sources and scan, with the far ends replaced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from random import Random
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from federation import wiring
from federation.errors import FederationError
from federation.model import SECOND_US, Side
from federation.ports import Source, State
from federation.settings import Settings
from federation.sources import (
    build,
    change_feed,
    change_feed_index,
    change_feed_layout,
    change_feed_position,
    change_feed_reader,
    vast_kafka,
)
from federation.sources.common import OnGap
from federation.sources.event_grid_queue import EventGridQueue
from federation.sources.vast_kafka import VastKafka
from federation.sync import identity
from federation.wiring import PairRuntime, open_pair
from fedplane import pair_engine
from fedplane.pair_engine import PairEngine
from operations import heartbeat, scanning
from tests.simulation.channels import ACCOUNT, BUCKET, CONTAINER, QueueEnd, TopicEnd, unit_name
from tests.simulation.feed import HOUR_SECONDS, SLACK_SECONDS, FeedEnd
from tests.simulation.loop import UNIT, Unit
from tests.simulation.script import Script
from tests.simulation.sides import START_US, Client
from tests.simulation.statebox import StateEnd

if TYPE_CHECKING:
    from tests.simulation.world import World

_RESTART_SECONDS = 2.0
NEVER_SECONDS = 1e9


class ProcessClock:
    """The wall clock of one machine, which may be set; its monotonic clock may not."""

    def __init__(self) -> None:
        self.off_us = 0

    def now_us(self) -> int:
        """As set."""
        return START_US + int(asyncio.get_running_loop().time() * 1_000_000) + self.off_us

    def monotonic_seconds(self) -> float:
        """Virtual."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Virtual."""
        await asyncio.sleep(seconds)


class Process(Unit):
    """One ``fedplane run``, started again by its supervisor when it ends with an error a person could cause."""

    def __init__(self, world: World, name: str, number: int) -> None:
        super().__init__(name)
        self.world = world
        self.clock = ProcessClock()
        self.rng = Random(f"{world.script.seed} {name} {number}")
        self.stop: asyncio.Event | None = None
        self.engine: PairEngine | None = None
        self.runtime: PairRuntime | None = None
        self.ended = False
        self.listings_failed: list[float] = []
        self.state: StateEnd | None = None

    def start(self) -> None:
        """Begin to run."""
        context = copy_context()
        context.run(UNIT.set, self)
        asyncio.get_running_loop().create_task(self._main(), context=context)

    async def _main(self) -> None:
        self.stop = asyncio.Event()
        while not self.stop.is_set():
            try:
                await self._once(self.stop)
            except FederationError as error:
                self.world.note(f"{self.name} ended: {type(error).__name__} {error}")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), _RESTART_SECONDS)
            except Exception as error:
                self.world.oracle.fail(f"process died: {error!r}")
                raise
        self.ended = True

    async def _once(self, stop: asyncio.Event) -> None:
        settings = self.world.settings(self.name)
        async with open_pair(settings, settings.pair[0], cast("Any", self.clock)) as runtime:
            self.runtime = runtime
            self.engine = PairEngine(runtime, settings.reconcile)
            await self.engine.run(stop)

    # ------------------------------------------------------------------------------------------------------- the far ends

    def client(self, side: Side) -> Client:
        """A connection to one side."""
        world = self.world
        off = lambda: self.clock.off_us  # noqa: E731 - two words
        client = Client(
            world.servers[side], self.rng, world.rates, world.count, off, self.listings_failed, page=world.script.page
        )
        client.asked = world.progress.claims.asked
        client.capabilities = world.servers[side].capabilities
        return client

    def sources(self, runtime: PairRuntime, on_gap: OnGap) -> list[Source]:
        """Both sources, over the simulated queue and topic."""
        world, sink, clock = self.world, runtime.sink, runtime.context.clock
        if not world.script.scans and not world.script.scan_at_start:
            on_gap = _no_scan  # a cursor that the other process moved is no gap: the events must do it alone
        ends = [
            QueueEnd(queue, self.rng, world.rates, world.count, world.progress.acknowledged)
            for queue in (world.queue, world.poison)
        ]
        scope = build.blob_scope(runtime.settings)
        queue = EventGridQueue(cast("Any", ends[0]), cast("Any", ends[1]), scope, sink, clock, on_gap)
        options = {
            "bootstrap_servers": ["sim:9092"],
            "sim_topic": world.topic,
            "sim_rng": self.rng,
            "sim_rates": world.rates,
            "sim_count": world.count,
        }
        vast = build.vast_scope(runtime.settings)
        kafka = VastKafka(options, "events", vast, runtime.state, sink, clock, on_gap=on_gap, owner=self.name)
        if world.feed is None:
            return [queue, kafka]
        blobs = FeedEnd(world.feed, world.servers[Side.BLOB], self.rng, world.rates, world.count)
        feed = build.change_feed_source(runtime.settings, blobs, runtime.state, sink, clock, self.name, on_gap)
        return [queue, kafka, feed]


async def _no_scan(prefix: str = "") -> None:
    """Where a source would ask for a scan."""
    del prefix


def current() -> Process:
    """The process that runs now."""
    unit = UNIT.get()
    assert isinstance(unit, Process)
    return unit


@asynccontextmanager
async def _open_state(settings: Settings, pair: Any, clock: Any, *, marker: str) -> AsyncIterator[State]:
    del settings, pair, marker
    process = current()
    world = process.world
    process.state = StateEnd(world.box, clock, process.rng, world.rates, world.count, world.observe)
    yield cast("State", process.state)


async def _no_credential(*_: Any) -> None:
    return None


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    """The far ends of the composition root, replaced while a world runs."""
    with contextlib.ExitStack() as stack:
        for where, name, what in (
            (wiring, "open_state", _open_state),
            (wiring, "_credential", _no_credential),
            (wiring, "_blob_store", lambda *_: current().client(Side.BLOB)),
            (wiring, "_vast_store", lambda *_: current().client(Side.VAST)),
            (wiring, "owner_name", unit_name),
            (pair_engine, "build_sources", lambda runtime, *, on_gap: current().sources(runtime, on_gap)),
            (vast_kafka, "Reader", TopicEnd),
            (pair_engine, "owner_name", unit_name),
            (scanning, "owner_name", unit_name),
            (identity, "token_hex", lambda count: "5e" * count),
            (heartbeat, "rss_bytes", lambda: 0),
            (heartbeat, "cpu_seconds", lambda: 0.0),
        ):
            stack.enter_context(mock.patch.object(where, name, what))
        for module in (change_feed_layout, change_feed_index, change_feed_reader, change_feed_position, change_feed):
            for name, seconds in (("INTERVAL_US", HOUR_SECONDS), ("SLACK_US", SLACK_SECONDS)):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, seconds * SECOND_US))
        yield


def _feed_start(script: Script) -> str:
    """What was before a feed's cursor only a scan can find."""
    return "now" if script.scans or script.scan_at_start else "start"


def settings_of(script: Script, *, other: bool, later: bool) -> Settings:
    """What an operator would have written for *script*.

    *other*: the second process runs under another version of it. *later*: so does everything that was started again.
    """
    return Settings.model_validate(
        {
            "pair": [
                {
                    "name": "sim",
                    "mode": script.mode,
                    "origin_stamps": script.stamps,
                    "blob": {
                        "account_url": "https://sim.invalid",
                        "container": CONTAINER,
                        "events": {"queue_url": "https://sim.invalid/q", "account_id": ACCOUNT},
                        "change_feed": {
                            "enabled": bool(script.feed_lag_seconds),
                            "from": _feed_start(script),
                            "poll_seconds": 4.0,
                        },
                    },
                    "vast": {
                        "endpoint": "https://vast.invalid",
                        "bucket": BUCKET,
                        "access_key_env": "A",
                        "secret_key_env": "B",
                        "events": {"bootstrap": ["sim:9092"], "topic": "events"},
                    },
                    "rules": {
                        "tie_winner": script.tie_winner,
                        "foreign": script.foreign,
                        **{f"deletes_to_{side}": "ignore" for side in script.deletes_ignored},
                        "delete_budget_count": script.delete_budget,
                        "delete_budget_share": 1.0,
                        "revert_limit": script.revert_limit,
                        "clock_uncertainty_seconds": 0.7 if other else 0.5,
                    },
                }
            ],
            "reconcile": {
                "interval_seconds": script.scan_seconds if script.scans else NEVER_SECONDS,
                "quiet_seconds": 6.0 if other else 4.0 if later else 5.0,
                "on_start": (script.scans or script.scan_at_start) and not other,
            },
            "worker": {"shards": script.shards, "concurrency": 2 if other else 4, "lease_seconds": 10.0, "drain_seconds": 5.0},
            "transfer": {"small_object_bytes": 16 if later else 64, "part_bytes": 20 if later else 32, "parallel_parts": 2},
        }
    )
