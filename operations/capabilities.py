"""What the servers were seen to honour, kept with the pair, so that not every command has to write to find out (rule 5)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import msgspec

from federation.capabilities import Capabilities
from federation.model import Side
from federation.wiring import PairRuntime

_NOTE = "capabilities:"
_FORM = 2
_LIFE_US = 24 * 3600 * 1_000_000


class Seen(msgspec.Struct):
    """What was seen of one endpoint, and when: microseconds since 1970 UTC."""

    at_us: int
    endpoint: str
    capabilities: Capabilities
    form: int = 0
    """What the probe looked for: where that was less, it is done again."""


def _endpoint(runtime: PairRuntime, side: Side) -> str:
    pair = runtime.settings
    if side is Side.BLOB:
        return f"{pair.blob.account_url} {pair.blob.container}"
    return f"{pair.vast.endpoint} {pair.vast.bucket}"


async def kept(runtime: PairRuntime, side: Side) -> Seen | None:
    """What was seen last, of whatever endpoint; None when nothing was."""
    note = await runtime.state.note(_NOTE + side)
    return msgspec.json.decode(note, type=Seen) if note else None


def _holds(seen: Seen, endpoint: str, now_us: int) -> bool:
    return (seen.endpoint, seen.form) == (endpoint, _FORM) and now_us - seen.at_us < _LIFE_US


async def recall(runtime: PairRuntime) -> tuple[Side, ...]:
    """Set the capabilities of both stores as kept, writing nothing; the sides whose own are not known, so that they are assumed.

    There no ETag is taken for a hash: contents that may be equal are then to be read, instead of called equal or a conflict.
    Raises RetryLater when the state cannot be read.
    """
    assumed = []
    for side, store in runtime.stores.items():
        seen = await kept(runtime, side)
        if seen is not None and _holds(seen, _endpoint(runtime, side), runtime.context.clock.now_us()):
            store.capabilities = seen.capabilities
        else:
            store.capabilities = replace(store.capabilities, etag_is_md5=False)
            assumed.append(side)
    return tuple(assumed)


def assumed_text(assumed: Collection[Side]) -> str:
    """What to tell people of what ``recall`` returned; empty where all is known."""
    if not assumed:
        return ""
    return (
        f"what the server of {' and '.join(assumed)} can do is assumed, no ETag is taken for a hash: it was not probed within a "
        "day, as `fedplane doctor` and `fedplane run` do"
    )


async def know(runtime: PairRuntime, *, probe_again: bool) -> None:
    """Set the capabilities of both stores: as kept of this endpoint within a day, else, or with *probe_again*, by trying.

    Trying writes and deletes a few small objects under ``.federation/probe/`` of each side.
    """
    for side, store in runtime.stores.items():
        seen = await kept(runtime, side)
        now_us = runtime.context.clock.now_us()
        endpoint = _endpoint(runtime, side)
        if not probe_again and seen is not None and _holds(seen, endpoint, now_us):
            store.capabilities = seen.capabilities
            continue
        found = await store.probe()
        await runtime.state.put_note(_NOTE + side, msgspec.json.encode(Seen(now_us, endpoint, found, _FORM)))
