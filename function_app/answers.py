"""What the functions that answer say. Both are for operators: object names are in them."""

from __future__ import annotations

import msgspec

from federation.errors import UsageError
from function_app.process import Process
from operations.explanation import explanation
from operations.status import pair_status


async def statuses(process: Process, name: str) -> bytes:
    """Of the pair called *name*, or of all, as JSON. Raises UsageError, RetryLater."""
    found = []
    for settings in process.config.pair:
        if name in ("", settings.name):
            pair = await process.pair(settings.name)
            found.append(await pair_status(pair.state, settings, pair.clock.now_us(), worker=process.config.worker))
    if not found:
        raise _no_such_pair(process)
    return msgspec.json.encode(found)


async def explained(process: Process, name: str, key: str) -> bytes:
    """Why *key* is the way it is, as JSON. Raises UsageError, RetryLater."""
    if not key:
        raise UsageError("Say which key: ?key=<pair-relative key>, percent-encoded.", reason="no_key")
    names = [pair.name for pair in process.config.pair]
    if not name and len(names) > 1:
        raise UsageError(f"Say which pair: ?pair=, one of {', '.join(names)}.", reason="which_pair")
    if name and name not in names:
        raise _no_such_pair(process)
    pair = await process.pair(name or names[0])
    found, _ = await explanation(pair.runtime, key, await pair.assumed())
    return msgspec.json.encode(found)


def _no_such_pair(process: Process) -> UsageError:
    names = ", ".join(pair.name for pair in process.config.pair)
    return UsageError(f"There is no such pair; there is {names}.", reason="no_such_pair")
