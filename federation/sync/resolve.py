"""A person's word on a recorded conflict: take the other version, keep both, or drop the loser (design 4.4).

Each is a write as a user of that side would make it; the engine then carries it over. The record goes last, so that a repeat
after a crash does what is left of the work, or says that nothing but the record is left.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import partial

from federation.errors import NotPresent, UsageError
from federation.model import Change, Metadata, Present, Source
from federation.ports import ObjectStore, Reader, State
from federation.progress import ConflictRecord
from federation.sync.confirm import confirmed_by
from federation.sync.context import PairContext
from federation.sync.journal import noted
from federation.sync.original import Original
from federation.sync.reading import OfVersion, Opens
from federation.sync.scene import require_same
from federation.sync.transfer import Target


class Verdict(StrEnum):
    """What to do with the loser."""

    OTHER = "other"
    """Make the loser the current version again; the winner's version on that side is overwritten."""
    KEEP_BOTH = "keep-both"
    """Give the loser a visible name beside the winner."""
    DROP = "drop"
    """Delete the loser's copy; a kept version stays for as long as the side keeps versions."""


async def resolve(ctx: PairContext, state: State, record: ConflictRecord, verdict: Verdict) -> str:
    """Carry *verdict* out and forget the record. Returns the key that changed; empty for none. Raises UsageError, Reobserve."""
    store = ctx.stores[record.loser_side]
    changed, side = "", record.loser_side
    if verdict is Verdict.OTHER:
        # A read-only zone would undo it again: there the version is given to the side that leads.
        side = side if ctx.rules.mode.writable(side) else side.other
        changed = await _take_other(ctx, store, ctx.stores[side], record)
    elif verdict is Verdict.KEEP_BOTH:
        changed = await _keep_both(ctx, store, record)
    if changed:
        await ctx.mark([Change(changed, side, Source.OPERATOR)])
    await _drop_copy(store, record)
    await state.drop_conflict(record.conflict_id)
    return changed


def visible_key(record: ConflictRecord) -> str:
    """The name beside the winner: ``dir/name.conflict-<side>-<id>.ext``."""
    folder, slash, name = record.key.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    if not stem:
        stem, dot, extension = name, "", ""
    return f"{folder}{slash}{stem}.conflict-{record.loser_side}-{record.conflict_id[:8]}{dot}{extension}"


async def _take_other(ctx: PairContext, store: ObjectStore, target: ObjectStore, record: ConflictRecord) -> str:
    current = await _present(target, record.key)
    if record.loser_metadata is not None:
        if current is None:
            raise UsageError(f"{record.key!r} is gone on {target.side}; drop this conflict.", reason="conflict_gone")
        expected = current.version.etag
        with confirmed_by(partial(require_same, target, record.key, current)):
            await target.replace_metadata(record.key, record.loser_metadata, stamp=None, expected_etag=expected)
        return record.key
    expected_etag = current.version.etag if current is not None else None
    await _write_back(ctx, *await _kept(store, record), Target(target, record.key, Metadata(), None, expected_etag), current)
    return record.key


async def _write_back(
    ctx: PairContext, original: Original, reader: Reader, target: Target, replaced: Present | None = None
) -> None:
    async def confirm() -> None:
        if replaced is not None:
            await require_same(target.store, target.key, replaced)

    present = original.present
    target = replace(target, metadata=present.metadata)
    try:
        if ctx.transfer.is_small(present.version.size_bytes):
            data = (await ctx.transfer.read_small(original, reader)).data
            store, expected_etag = target.store, target.expected_etag
            with confirmed_by(confirm):
                await store.put(target.key, data, target.metadata, stamp=None, expected_etag=expected_etag)
            return
    finally:
        await reader.close()
    async with noted(ctx.state, target.store, target.key, ctx.clock) as journal:
        await ctx.transfer.send_large(original, target, journal=journal, confirm=confirm)


async def _keep_both(ctx: PairContext, store: ObjectStore, record: ConflictRecord) -> str:
    if record.loser_metadata is not None:
        raise UsageError(
            "Only metadata lost in this conflict: there is no second object to keep. Use --take other or --take drop.",
            reason="metadata_conflict",
        )
    original, reader = await _kept(store, record)
    target = visible_key(record)
    if record.preserved_version_id and await _present(store, target) is None:
        await _write_back(ctx, original, reader, Target(store, target, Metadata(), None, None))
        return target
    await reader.close()
    if not record.preserved_version_id:
        await store.copy(record.preserved_as, target, source_etag=original.present.version.etag)
    return target


async def _drop_copy(store: ObjectStore, record: ConflictRecord) -> None:
    kept = await _present(store, record.preserved_as) if record.preserved_as else None
    if kept is not None:
        await store.delete(record.preserved_as, expected_etag=kept.version.etag)


async def _kept(store: ObjectStore, record: ConflictRecord) -> tuple[Original, Reader]:
    """The loser's content, and a GET of all of it."""
    source: Opens = OfVersion(store, record.preserved_version_id) if record.preserved_version_id else store
    key = record.key if record.preserved_version_id else record.preserved_as
    try:
        reader = await source.open(key)
    except NotPresent:
        raise UsageError(
            f"What was kept, {record.preserved_as!r}, is no longer on {record.loser_side}: somebody removed it, or this "
            "was resolved before and cut short at the end. Drop this conflict with --take drop.",
            reason="copy_gone",
        ) from None
    return Original(source, key, reader.present), reader


async def _present(store: ObjectStore, key: str) -> Present | None:
    try:
        return await store.head(key)
    except NotPresent:
        return None
