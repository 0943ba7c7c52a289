"""Large hashes in pieces: Redis serves others between any two, and nobody holds all of it.

A field that is there from the first piece to the last comes at least once; one that is made or removed meanwhile may come or not
(HSCAN). Redis gives a compact hash, of some hundred fields at most, as one piece.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from federation.state.calls import Calls

AT_ONCE = 200
"""Fields asked for at a time, about: well under a millisecond of Redis."""
_HASHES_AT_ONCE = 64
Fields = list[tuple[bytes, bytes]]


async def hash_pieces(calls: Calls, keys: Sequence[str]) -> AsyncIterator[Fields]:
    """The fields of the hashes *keys*, a piece of each in a round trip. A field may come twice."""
    for at in range(0, len(keys), _HASHES_AT_ONCE):
        cursors: dict[str, int | bytes] = dict.fromkeys(keys[at : at + _HASHES_AT_ONCE], 0)
        while cursors:
            replies = await calls.pipe([("HSCAN", key, cursor, "COUNT", AT_ONCE) for key, cursor in cursors.items()])
            for _, found in replies:
                yield _fields(found)
            cursors = {key: cursor for key, (cursor, _) in zip(cursors, replies, strict=True) if int(cursor)}


async def hash_piece(calls: Calls, key: str, cursor: int) -> tuple[int, Fields]:
    """The piece of one hash at *cursor*, and the cursor of the next; 0 begins, and ends it."""
    [(after, found)] = await calls.pipe([("HSCAN", key, cursor, "COUNT", AT_ONCE)])
    return int(after), _fields(found)


def _fields(found: dict[bytes, bytes] | list[bytes]) -> Fields:
    return list(found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True))
