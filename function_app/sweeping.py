"""What is done each minute, whatever happened before: calls for what is due, looks at queues and sides, and telling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import msgspec
from azure.storage.queue import QueueMessage

from federation.errors import FederationError, RetryLater
from federation.model import Side
from federation.payloads import Malformed
from federation.payloads.event_grid import decode_queue_text, parse
from federation.sources.build import blob_scope
from federation.sources.common import Tell, ask_scans
from federation.telemetry import logger
from function_app.pair import SLOW_US, FunctionPair
from function_app.process import QUEUE, Process
from function_app.topic import write_canary
from operations import heartbeat

_MINUTE_US = 60_000_000
_AT_WORK_SECONDS = 120
"""How long what is taken back is hidden meanwhile: should that fail, the next sweep but one tries again."""
_FOR_A_PERSON_SECONDS = 3600
"""How long what is left in the poison queue for a person is not looked at again."""
_STEP_SECONDS = 15.0
"""For one step of one pair: a side or a queue that does not answer may take a minute to say so."""
_log = logger("fedplane.functions")
Step = Callable[[FunctionPair, Process], Coroutine[Any, Any, None]]


async def sweep(process: Process) -> None:
    """All pairs at once, the calls of all before anything that asks a side or a queue of events, then what there is to publish.

    What cannot be done for one now, or takes too long, keeps nothing else from being done.
    """
    try:
        pairs = [pair async for pair in process.pairs()]
        faults = await _all(process, [(pair, (_state, _call)) for pair in pairs])
        faults += await _all(process, [(pair, (step,)) for pair in pairs for step in (_sides, _canary, _poison, _calls, _queue)])
    finally:
        await process.publish(await process.levels())
    for fault in faults:
        raise fault


async def _all(process: Process, work: Iterable[tuple[FunctionPair, Sequence[Step]]]) -> list[BaseException]:
    """Each pair's steps one after the other, beside those of others; returns faults of ours, which the host should see."""
    results = await asyncio.gather(*(_do(process, pair, steps) for pair, steps in work), return_exceptions=True)
    return [result for result in results if result is not None]


async def _do(process: Process, pair: FunctionPair, steps: Sequence[Step]) -> None:
    for step in steps:
        try:
            async with asyncio.timeout(_STEP_SECONDS):
                await step(pair, process)
        except (FederationError, TimeoutError) as error:
            told = str(error) or "it took too long"
            _log.warning("not done in this sweep", pair=pair.name, step=step.__name__.lstrip("_"), error=told)


async def _state(pair: FunctionPair, _: Process) -> None:
    """Has it been emptied, or gone back? Processes that are gone are forgotten."""
    await pair.notice_lost_state()
    await pair.lost_marks.begin()
    await pair.lost_marks.look()
    await heartbeat.forget_old(pair.state, pair.clock.now_us())


async def _call(pair: FunctionPair, _: Process) -> None:
    """Ring for every shard that holds something due before the next sweep, and have one shard a minute tidied."""
    now_us = pair.clock.now_us()
    for shard, due_us in (await pair.state.waiting()).items():
        wait_us = max(0, due_us - now_us)
        if wait_us < _MINUTE_US:
            await pair.bells.call(shard, delay_seconds=-(-wait_us // 1_000_000))
    await pair.bells.call(now_us // _MINUTE_US % pair.state.shards, tidy=True)


async def _sides(pair: FunctionPair, _: Process) -> None:
    await pair.look_at_sides()


async def _canary(pair: FunctionPair, _: Process) -> None:
    await write_canary(pair)


async def _queue(pair: FunctionPair, process: Process) -> None:
    """Say how the queue of events is: it is empty, or its oldest message tells how far behind we are; the app's own word."""
    tell = Tell(QUEUE)
    if pair.settings.blob.events.queue_url:
        try:
            count, since_us = await process.queues.waiting(pair.settings)
        except RetryLater as error:
            tell.down(error)
        else:
            tell.connected = True
            if since_us is not None and await pair.age_us(Side.BLOB, since_us) > SLOW_US:
                tell.waiting = {"": since_us}
            if count and since_us is None and (trouble := await _trouble(pair)):
                tell.down(trouble)
    await pair.say("functions", {QUEUE: tell.as_dict()} if pair.settings.blob.events.queue_url else {})


async def _trouble(pair: FunctionPair) -> str:
    """Why a process failed to take a message lately. Else messages that nobody sees are being taken at this moment."""
    now_us = pair.clock.now_us()
    fresh = [beat for beat in await heartbeat.heartbeats(pair.state) if beat.fresh(now_us) and beat.process != "functions"]
    return next((error for beat in fresh if (error := str(beat.sources.get(QUEUE, {}).get("last_error") or ""))), "")


async def _poison(pair: FunctionPair, process: Process) -> None:
    """Take back what the host gave up on: what can be read is marked, the rest is kept with its reason where status sees it."""
    if pair.settings.blob.events.queue_url:
        # Until it is empty or the step's time is over: what was not reached is there for the next sweep.
        while messages := await process.queues.poisoned(pair.settings, hidden_seconds=_AT_WORK_SECONDS):
            for message in messages:
                if _is_letter(message):
                    await process.queues.hide_poisoned(pair.settings, message, hidden_seconds=_FOR_A_PERSON_SECONDS)
                else:
                    await _take_back(pair, process, message)
                    await process.queues.forget_poisoned(pair.settings, message)


async def _calls(_: FunctionPair, process: Process) -> None:
    """Drop calls of the app's own that the host gave up on."""
    functions = process.config.functions
    for queue in (functions.doorbell_queue, functions.reconcile_queue):
        if await process.queues.drop_poisoned(queue):
            _log.error("calls were given up on by the host; the sweep called again", queue=queue)


async def _take_back(pair: FunctionPair, process: Process, message: QueueMessage) -> None:
    text = str(message.content)
    try:
        parsed = parse(decode_queue_text(text), blob_scope(pair.settings))
    except Malformed as fault:
        await process.bury(pair, str(fault), text.encode(errors="surrogateescape"))
        return
    _log.warning("a message was given up on by the host; it is marked now", pair=pair.name)
    await ask_scans(parsed, pair.gap)
    if parsed.changes:
        await pair.mark(parsed.changes)


def _is_letter(message: QueueMessage) -> bool:
    """Whether ``fedplane run`` put it there, whole and with its reason, for a person."""
    try:
        told = msgspec.json.decode(str(message.content))
    except (msgspec.DecodeError, UnicodeError):
        return False
    return isinstance(told, dict) and {"reason", "at_us", "message_id"} <= told.keys()
