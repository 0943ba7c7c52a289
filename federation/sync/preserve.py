"""Keep a losing version before it is overwritten or deleted (design 4.4)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from federation import metadata
from federation.errors import NotPresent, Park, Reobserve, RetryLater
from federation.model import PRESERVED_PREFIX, SECOND_US, ListEntry, Metadata, Present, Side, Stamp
from federation.ports import Clock, ObjectStore, State
from federation.progress import ConflictRecord
from federation.rules.decision import Reason
from federation.rules.precedence import logical_stamp
from federation.sync.context import PairContext

CONFLICTS_PREFIX = f"{PRESERVED_PREFIX}conflicts/"
POINTER = "fedplane-version"
POINTER_KEY = "fedplane-key"
"""User metadata of the empty object that stands for a kept version: the version's id and its key."""
RECORD_LOST = "record_lost"
"""Reason of a conflict whose record was lost with the state and made again from the kept copy."""
_TIME_FORMAT = "%Y%m%dT%H%M%SZ"
_PRESERVED = re.compile(
    re.escape(CONFLICTS_PREFIX) + r"(?P<key>.+)~(?P<side>blob|vast)~(?P<at>\d{8}T\d{6}Z)~[0-9a-f]{8}", re.DOTALL
)
_RELIST_AFTER_US = 60 * SECOND_US


def conflict_id(preserved: str) -> str:
    """The same for every repeat of one conflict, so that a crash between copy and record makes no second one.

    It follows from the name of the copy, so that a record lost with the state is made again from the copy (``relist``).
    """
    return hashlib.blake2b(preserved.encode(), digest_size=8).hexdigest()


def _version(present: Present) -> str:
    # On VAST the ETag is a content hash: metadata tells two versions of one content apart (docs/adr/0001).
    return f"{present.version.etag}\0{present.metadata_digest.hex()}"


def preserved_key(key: str, loser: Side, present: Present, written: Stamp, *, short: bool = False) -> str:
    """``.federation/conflicts/<key>~<side>~<UTC time>~<short etag>``: named by the version, not by the clock of the copy.

    *short* puts a digest in place of a key that leaves no room for the rest.
    """
    at = datetime.fromtimestamp(written.at_us // SECOND_US, UTC).strftime(_TIME_FORMAT)
    version = hashlib.blake2b(_version(present).encode(), digest_size=4).hexdigest()
    return f"{CONFLICTS_PREFIX}{metadata.key_digest(key) if short else key}~{loser}~{at}~{version}"


async def preserve_loser(
    ctx: PairContext, key: str, loser: tuple[Side, Present], winner: Present | Stamp, reason: Reason, *, copy_bytes: bool
) -> None:
    """Copy the loser on its own side, conditional on its ETag, then record the conflict. Raises Reobserve when it moved.

    *copy_bytes* False: contents are equal and only metadata loses, so the record itself holds it. *winner* is the time of the
    delete where a delete wins.
    """
    side, present = loser
    rules = await ctx.current_rules()
    written = logical_stamp(present, side, rules)
    won = winner if isinstance(winner, Stamp) else logical_stamp(winner, side.other, rules)
    name = preserved_key(key, side, present, written)
    version_id = ""
    if copy_bytes:
        short_name = preserved_key(key, side, present, written, short=True)
        name, version_id = await _keep_under_some_name(ctx.stores[side], key, (name, short_name), present)
    await ctx.state.record_conflict(
        ConflictRecord(
            conflict_id=conflict_id(name),
            key=key,
            winner_side=side.other,
            loser_side=side,
            reason=reason.value,
            at_us=ctx.clock.now_us(),
            winner_etag="" if isinstance(winner, Stamp) else winner.version.etag,
            loser_etag=present.version.etag,
            winner_written_us=won.at_us,
            loser_written_us=written.at_us,
            loser_size_bytes=present.version.size_bytes,
            preserved_as=name if copy_bytes else "",
            preserved_version_id=version_id,
            loser_metadata=None if copy_bytes else present.metadata,
        )
    )


async def _keep_under_some_name(store: ObjectStore, key: str, names: tuple[str, str], present: Present) -> tuple[str, str]:
    """The name of the two that the side can hold, and what ``_keep`` returns."""
    name, short_name = names
    try:
        return name, await _keep(store, key, name, present)
    except Park as parked:
        if parked.reason != "unrepresentable":
            raise
    return short_name, await _keep(store, key, short_name, present)


async def _keep(store: ObjectStore, key: str, name: str, present: Present) -> str:
    """Keep *present* under *name*: by its version id, which a small pointer holds, else as a copy (then empty). Raises Reobserve.

    A version with an id outlives overwriting and deleting on both services, also where versioning was suspended since; that the
    id leads to this version is seen first (rule 1). The pointer makes the record again should the state be lost (``relist``).
    """
    version_id = present.version.version_id or ""
    if not await _kept_by_id(store, key, present):
        await store.copy(key, name, source_etag=present.version.etag)
        return ""
    try:
        await store.put(name, b"", Metadata(user=((POINTER_KEY, key), (POINTER, version_id))), stamp=None, expected_etag=None)
    except Reobserve:
        await store.head(name)  # a repeat: it is there already
    return version_id


async def _kept_by_id(store: ObjectStore, key: str, present: Present) -> bool:
    if not store.capabilities.versioning or not present.version.version_id:
        return False
    try:
        reader = await store.open_version(key, present.version.version_id)
    except (NotPresent, Park):
        return False
    await reader.close()
    return reader.present.version.etag == present.version.etag


async def relist(
    stores: Mapping[Side, ObjectStore],
    state: State,
    clock: Clock,
    since: tuple[Side, str] = (Side.BLOB, ""),
    told: Callable[[Side, str, bool], Awaitable[None]] | None = None,
) -> int:
    """Record kept copies that no conflict lists: their records were lost with the state (rule 1). How many. Raises as listings.

    A copy is removed by whoever resolves its conflict, so one that is there without a record was never resolved. Young copies
    are left alone: their record may be on its way. Of a copy with a short name the record shows the digest in place of the key.
    Only copies after *since* are looked at; *told* hears of each, and whether it was recorded.
    """
    known = await state.conflict_ids()
    total = 0
    for side in list(Side)[list(Side).index(since[0]) :]:
        store = stores[side]
        until_us = clock.now_us() + (await store.clock_skew()).us - _RELIST_AFTER_US
        after = since[1] if side is since[0] else ""
        async for entry in store.list(prefix=CONFLICTS_PREFIX, start_after=after):
            match = _PRESERVED.fullmatch(entry.key) if entry.modified.at_us <= until_us else None
            if match is not None and (match["side"] != side or conflict_id(entry.key) in known):
                match = None
            pointed = await _pointed(store, entry) if match is not None else None
            if match is not None and pointed is not None:
                kept_key, version_id = pointed
                await state.record_conflict(_from_copy(entry, kept_key or match["key"], side, match["at"], version_id))
                total += 1
            if told is not None:
                await told(side, entry.key, pointed is not None)
    return total


async def _pointed(store: ObjectStore, entry: ListEntry) -> tuple[str, str] | None:
    """Key and version id that a pointer holds; empty for a copy, None for one that has not come to its end, or failed."""
    if entry.size_bytes:
        return "", ""
    try:
        user = dict((await store.head(entry.key)).metadata.user)
    except NotPresent:
        return "", ""
    except (Park, RetryLater) as error:
        if error.reason not in {"copy_pending", "copy_failed"}:
            raise
        return None  # the loser is where it was, and whoever keeps it goes on: no fault of all that is scanned
    return user.get(POINTER_KEY, ""), user.get(POINTER, "")


def _from_copy(entry: ListEntry, key: str, side: Side, written: str, version_id: str) -> ConflictRecord:
    at = datetime.strptime(written, _TIME_FORMAT).replace(tzinfo=UTC)
    return ConflictRecord(
        conflict_id=conflict_id(entry.key),
        key=key,
        winner_side=side.other,
        loser_side=side,
        reason=RECORD_LOST,
        at_us=entry.modified.at_us,
        winner_etag="",
        loser_etag="",
        winner_written_us=0,
        loser_written_us=int(at.timestamp()) * SECOND_US,
        loser_size_bytes=entry.size_bytes,
        preserved_as=entry.key,
        preserved_version_id=version_id,
    )
