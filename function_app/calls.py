"""What is done with messages of the app's own queues. Each is a call to look: what is to be done is in the state."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from federation.telemetry import logger
from function_app import scans
from function_app.bells import Call
from function_app.process import Process
from function_app.scans import Part
from function_app.visit import Visit

MOST_SHARDS = 16
"""That one process answers calls for at a time."""
_T = TypeVar("_T")
_log = logger("fedplane.functions")


async def answer(process: Process, body: bytes, during: Visit) -> None:
    """Work on the shard that a doorbell calls for. Raises RetryLater: the host then keeps the message."""
    call = _read(body, Call)
    if call is None or process.settings_of(call.pair) is None:
        return
    pair = await process.pair(call.pair)
    await pair.bells.answered(call)
    if not pair.worker.poke(call.shard):
        if pair.worker.draining < MOST_SHARDS:
            await pair.work_on(call.shard, during)
        else:
            # The host took more calls than can be answered: put back, so that another instance, or one yet to come, takes it.
            await pair.bells.ring(call.shard, later=True)
    if call.tidy and await pair.ready() and await pair.worker.tidy(call.shard):
        await pair.follow([call.shard])


async def call_for_scans(process: Process) -> None:
    """A message for each scan that is due. Raises RetryLater: the next minute tries again."""
    queue = process.config.functions.reconcile_queue
    async for pair in process.pairs():
        for prefix in await scans.due(pair):
            await process.queues.send(queue, msgspec.json.encode(Part(pair.name, prefix)).decode())


async def take_part(process: Process, body: bytes) -> None:
    """Scan, as the message says. Raises RetryLater."""
    part = _read(body, Part)
    if part is not None and process.settings_of(part.pair) is not None:
        await scans.scan(await process.pair(part.pair), part.prefix, process.config.functions.scan_seconds)


def _read(body: bytes, of: type[_T]) -> _T | None:
    """The message; None where it cannot be read, which is told: nothing is lost with it."""
    try:
        return msgspec.json.decode(body, type=of)
    except msgspec.DecodeError as error:
        _log.error("a message of our own queue cannot be read; dropped", message=of.__name__, error=str(error))
        return None
