"""VAST's records as the host reads them, where ``functions.vast_events`` says so; it keeps the positions, as a member of a group.

Weaker than our own reader: a position that is gone or set back is not noticed, so only scans find what lay between; a batch that
failed is tried again while its instance lives (the trigger's retry policy), and by another one if it dies.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Collection, Sequence
from typing import Any

import azure.functions as func

from federation.model import Side
from federation.payloads import Malformed
from federation.payloads.vast import VastParsed, VastScope, parse
from federation.progress import DeadLetter
from federation.sources import canary
from federation.sources.build import vast_scope
from federation.sources.common import ask_scans
from federation.sources.key_spelling import KeySpelling
from function_app.pair import SLOW_US, FunctionPair
from function_app.process import Process
from operations import heartbeat

NAME = "vast_events"
_HOLDS_SECONDS = 60.0
_LATE_SECONDS = 60.0
"""How long a partition whose last batch was old is told to have more: while it does, the host brings the next within seconds."""


async def take_records(process: Process, events: Sequence[func.KafkaEvent], pairs: Collection[str]) -> None:
    """Mark what *events* name, for *pairs*, whose topic they came by. Raises RetryLater: the host tries the batch again."""
    for settings in process.config.pair:
        if settings.name in pairs:
            await _take(await process.pair(settings.name), events)


async def _take(pair: FunctionPair, events: Sequence[func.KafkaEvent]) -> None:
    """As ``sources.vast_kafka`` does: parse, ask for scans, mark, keep what could not be read, note the canary."""
    scope, tell = vast_scope(pair.settings), pair.tell(NAME)
    tell.counts["received"] += len(events)
    read: list[tuple[int, VastParsed]] = []
    letters: list[DeadLetter] = []
    for event in events:
        _read(event, scope, read, letters, pair.clock.now_us())
    batch = [parsed for _, parsed in read]
    spelling = KeySpelling()
    seen = await canary.back(pair.state)
    spelling.learn(seen.spellings if seen is not None else ())
    for parsed in batch:
        tell.parsed(parsed)
        await ask_scans(parsed, pair.gap)
    changes = [change for parsed in batch for change in [*parsed.changes, *spelling.pick(parsed.ambiguous)]]
    if changes:
        tell.marked(await pair.mark(changes))
    for letter in letters:  # after the marks, so that a batch that is tried again buries them once
        await pair.state.bury(letter)
        tell.dead(letter.reason)
    for parsed in batch:
        if parsed.canary is not None:
            await canary.note_back(pair.state, parsed.canary, pair.clock.now_us())
            if spelling.learn(parsed.canary.spellings):
                await pair.gap()
    tell.up()
    await _note_late(pair, {str(partition): parsed.newest_us for partition, parsed in read if parsed.newest_us})
    await say(pair)


async def _note_late(pair: FunctionPair, read_us: dict[str, int]) -> None:
    """What waits in the topic only the host knows: a partition whose last record was old when it came is taken to hold more.

    This process's own word tells it; the one that all processes say in turn would forget the partitions of the others.
    """
    waiting = pair.tell(NAME).waiting
    for partition, at_us in read_us.items():
        late = await pair.age_us(Side.VAST, at_us) > SLOW_US
        waiting.pop(partition, None)
        if late:
            waiting[partition] = at_us
            asyncio.get_running_loop().call_later(_LATE_SECONDS, _forget, waiting, partition, at_us)


def _forget(waiting: dict[str, int | None], partition: str, at_us: int) -> None:
    """Unless it was read on since."""
    if waiting.get(partition) == at_us:
        del waiting[partition]


def _read(
    event: func.KafkaEvent, scope: VastScope, read: list[tuple[int, VastParsed]], letters: list[DeadLetter], now_us: int
) -> None:
    raw = event.get_body()
    try:
        read.append((event.partition or 0, parse(raw, scope, [_header(one) for one in event.headers or []])))
    except Malformed as fault:
        where: dict[str, Any] = {"topic": event.topic or "", "partition": event.partition or 0, "offset": event.offset or 0}
        letters.append(DeadLetter(NAME, str(fault), raw, now_us, **where))


def _header(told: dict[str, str]) -> tuple[str, bytes | None]:
    """The extension writes values in base64."""
    value = told.get("Value")
    try:
        return told.get("Key", ""), base64.b64decode(value, validate=True) if value is not None else None
    except (binascii.Error, ValueError):
        return told.get("Key", ""), str(value).encode()


async def say(pair: FunctionPair) -> None:
    """That records come. It holds until the canary's next one is overdue: a silent topic is a doubt. Raises RetryLater."""
    holds = 2 * pair.settings.vast.events.canary_seconds + canary.RETURN_SECONDS or _HOLDS_SECONDS
    told = pair.tell(NAME).as_dict() | {"behind": 0, "read_to_us": None}
    beat = await pair.beat(f"functions/{NAME}", {NAME: told}, fresh_seconds=holds)
    await heartbeat.say(pair.state, beat)


async def write_canary(pair: FunctionPair) -> None:
    """Where no reader of ours does. Raises RetryLater."""
    events = pair.settings.vast.events
    if pair.config.functions.vast_events == "kafka_trigger" and events.bootstrap and events.canary_seconds and await pair.ready():
        store, owner = pair.runtime.stores[Side.VAST], "functions"
        made = canary.Canary(store, pair.state, pair.clock, owner=owner, every_seconds=events.canary_seconds)
        await made.write_when_due()
