"""Sources that are read, for as long as one invocation lasts. Their positions are in the state, so another goes on from there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from federation.model import Side
from federation.ports import Source
from federation.sources import build
from federation.sync.stopping import end
from federation.telemetry import logger
from federation.wiring import open_feed, owner_name
from function_app.pair import FunctionPair
from operations import heartbeat

_LOOK_SECONDS = 0.5
_TELL_SECONDS = 10.0
_log = logger("fedplane.functions")
Health = dict[str, Any]


async def read_topic(pair: FunctionPair, seconds: float) -> None:
    """Read the topic of VAST's events for *seconds*, and write its canary. Raises RetryLater, UsageError."""
    sources = build.vast_sources(
        pair.settings, pair.state, pair, pair.clock, pair.gap, pair.runtime.stores[Side.VAST], owner_name()
    )
    await _read(pair, "vast_events", sources, seconds, lambda _: False)


async def read_namespace(pair: FunctionPair, seconds: float) -> None:
    """Receive what the namespace holds for *seconds*; what is in hand then comes again. Raises RetryLater, UsageError."""
    credential = pair.runtime.credential
    source = build.pull_source(pair.settings, pair.state, pair, pair.clock, credential=credential, on_gap=pair.gap)
    await _read(pair, source.name, [source], seconds, lambda _: False)


async def read_feed(pair: FunctionPair, seconds: float) -> None:
    """Read the change feed until nothing is left of it, for *seconds* at most. Raises RetryLater, UsageError."""
    feed = open_feed(pair.settings, pair.runtime.credential)
    source = build.change_feed_source(pair.settings, feed, pair.state, pair, pair.clock, owner_name(), pair.gap)
    await _read(pair, source.name, [source], seconds, lambda told: bool(told["connected"]) and not told["behind"])


async def _read(pair: FunctionPair, name: str, sources: Sequence[Source], seconds: float, done: Callable[[Health], bool]) -> None:
    """Run *sources* until the first of them is *done* or the time is over, telling meanwhile how they are."""
    await pair.ready()  # who tells of a source tells of the sides too
    loop = asyncio.get_running_loop()
    until, tell_at = loop.time() + seconds, loop.time() + _TELL_SECONDS
    told = _standing(sources)  # not connected yet: until it is, the word of the invocation before this one holds
    tasks = [asyncio.create_task(source.run()) for source in sources]
    try:
        while loop.time() < until and not done(sources[0].health()):
            ended, _ = await asyncio.wait(tasks, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
            if loop.time() >= tell_at or _standing(sources) != told:
                tell_at, told = loop.time() + _TELL_SECONDS, _standing(sources)
                await _say(pair, name, sources)
        await _say(pair, name, sources)
    finally:
        await end(tasks)
        pair.on_read({source.name: source.health() for source in sources}, {})


def _standing(sources: Sequence[Source]) -> tuple[object, ...]:
    """What of the first source is told as soon as it changes; also that it is known by now how far it is behind."""
    health = sources[0].health()
    return health["connected"], health.get("held"), health.get("behind") and health.get("read_to_us") is None


async def _say(pair: FunctionPair, name: str, sources: Sequence[Source]) -> None:
    told = {source.name: source.health() for source in sources}
    beat = await pair.beat(f"functions/{name}", told, fresh_seconds=_TELL_SECONDS * 6)
    await heartbeat.say(pair.state, beat)
