"""Carry one decision out with conditional writes and return the base that now holds (design 4.1).

Only what a write returned, or what was read, moves the base; every write is conditional on what was decided from (rule 5).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from federation import metadata as mapping
from federation.errors import FederationError, Park
from federation.model import Absent, Base, Metadata, Present, Side, Stamp, StampOrigin
from federation.ports import ObjectStore, WriteResult
from federation.rules.decision import Action, Decision, Reason
from federation.rules.guards import MASS_DELETE, content_name
from federation.rules.precedence import logical_stamp
from federation.rules.proof import same_content
from federation.sync.budget import flow
from federation.sync.confirm import confirmed_by
from federation.sync.context import REVERT_WINDOW_SECONDS, PairContext
from federation.sync.journal import KeyJournal
from federation.sync.observe import new_stamp
from federation.sync.original import Original, still_the_same
from federation.sync.preserve import preserve_loser
from federation.sync.scene import Scene, require_as_looked
from federation.sync.transfer import Target

NO_ETAG = "?"
"""That no version has."""


def of_nothing(etag: str) -> str:
    """How an intent names the destination's version *etag*, where that is a write of ours, of nothing that the source holds."""
    return NO_ETAG + etag


class DeleteHeld(Exception):
    """The delete budget is used up: this delete waits for a person (rule 8)."""

    def __init__(self, delete_on: Side, deleted: Stamp | None = None) -> None:
        super().__init__(f"delete on {delete_on} is over the budget")
        self.delete_on = delete_on
        self.deleted = deleted


async def apply(ctx: PairContext, scene: Scene, decision: Decision) -> Base | None:
    """Do it. Returns the base to settle with; None forgets the key. Raises Reobserve, DeleteHeld and the stores' errors."""
    if decision.reverts and not scene.by_person:
        await _reserve_revert(ctx, scene, decision.destination)
    match decision.action:
        case Action.NOTHING:
            return _seen_again(scene)
        case Action.ADOPT:
            return _adopt(ctx, scene)
        case Action.KEEP:
            return _keep(scene, decision.destination.other)
        case Action.COPY:
            return await _copy(ctx, scene, decision)
        case Action.METADATA:
            return await _metadata(ctx, scene, decision)
        case Action.DELETE:
            return await _delete(ctx, scene, decision)
        case Action.WAIT | Action.HASH:
            raise AssertionError(f"{decision.action} is answered before apply")


def _seen_again(scene: Scene) -> Base | None:
    if isinstance(scene.blob, Present) != isinstance(scene.vast, Present) and scene.base is not None and scene.base.live:
        # One side alone, by rule, and the same content under another ETag: remember that, or every scan would look again.
        return _keep(scene, Side.BLOB if isinstance(scene.blob, Present) else Side.VAST)
    if scene.base is None or isinstance(scene.vast, Absent):
        return scene.base
    return replace(scene.base, vast_as_of_us=max(scene.base.vast_as_of_us, scene.vast_as_of_us))


def _adopt(ctx: PairContext, scene: Scene) -> Base | None:
    if isinstance(scene.blob, Absent) or isinstance(scene.vast, Absent):
        if scene.base is None:
            return None
        return Base(deleted=True, written=Stamp(ctx.clock.now_us(), 1, StampOrigin.SCAN))
    written = min(
        logical_stamp(scene.blob, Side.BLOB, scene.rules),
        logical_stamp(scene.vast, Side.VAST, scene.rules),
        key=lambda stamp: stamp.at_us,
    )
    if scene.base is not None and scene.base.live and scene.base.md5 is not None:
        known = {here.version.md5 for here in (scene.blob, scene.vast)} - {None}
        written = scene.base.written if known == {scene.base.md5} else written
    agreed = scene.base.md5 if scene.base is not None and scene.base.live else None
    # On the operator's word alone no hash is agreed on, and metadata that differs is left as it is.
    proved = scene.base is not None or same_content(scene.blob, scene.vast) is True
    differs = scene.blob.metadata_digest != scene.vast.metadata_digest
    return Base(
        blob_etag=scene.blob.version.etag,
        vast_etag=scene.vast.version.etag,
        md5=(scene.blob.version.md5 or scene.vast.version.md5 or agreed) if proved else None,
        metadata_digest=scene.vast.metadata_digest,  # Blob's is proved by its ETag, VAST's by nothing else
        written=written,
        size_bytes=scene.blob.version.size_bytes,
        lossy=differs or any(_too_much(scene.present(side), side) for side in Side),
        vast_as_of_us=scene.vast_as_of_us,
    )


def _too_much(here: Present, side: Side) -> bool:
    """Whether *side* holds metadata that the other side cannot take."""
    return mapping.shared(here.metadata, side) != here.metadata


def _keep(scene: Scene, side: Side) -> Base:
    here, was = scene.present(side), scene.base
    same = was is not None and was.live and was.etag(side) == here.version.etag and not here.version.content_moved
    one_sided = Base(
        md5=here.version.md5 or (was.md5 if was is not None and same else None),  # else a touch would pass for a change
        metadata_digest=here.metadata_digest,
        written=logical_stamp(here, side, scene.rules),
        size_bytes=here.version.size_bytes,
        lossy=_too_much(here, side),
        vast_as_of_us=scene.vast_as_of_us,
    )
    if side is Side.BLOB:
        return replace(one_sided, blob_etag=here.version.etag)
    return replace(one_sided, vast_etag=here.version.etag)


async def _preserve(ctx: PairContext, scene: Scene, decision: Decision, *, copy_bytes: bool) -> None:
    if decision.preserve is None:
        return
    loser = scene.present(decision.preserve)
    there = scene.of(decision.preserve.other)
    now = Stamp(ctx.clock.now_us(), 1, StampOrigin.SCAN)
    winner = there if isinstance(there, Present) else there.deleted or now
    await preserve_loser(ctx, scene.key, (decision.preserve, loser), winner, decision.reason, copy_bytes=copy_bytes)


def _carrying_back(scene: Scene, decision: Decision) -> Present:
    """The source, with the metadata that its side cannot hold of the version it now replaces on the other side.

    Not of a version that loses or is undone: that is kept as a whole.
    """
    side = decision.destination.other
    source, target = scene.present(side), scene.of(side.other)
    if decision.preserve is not None or not isinstance(target, Present):
        return source
    return replace(source, metadata=mapping.carried_back(source.metadata, target.metadata, side))


async def _copy(ctx: PairContext, scene: Scene, decision: Decision) -> Base:
    side = decision.destination.other
    source, target = _carrying_back(scene, decision), scene.of(decision.destination)
    destination = ctx.stores[decision.destination]
    await _preserve(ctx, scene, decision, copy_bytes=True)
    written = logical_stamp(source, side, scene.rules)
    expected = target.version.etag if isinstance(target, Present) else None
    agreed = scene.base is not None and scene.base.live and bool(scene.base.etag(side))  # else what only a zone holds
    if not agreed or not ctx.transfer.is_small(source.version.size_bytes):
        # Should we die after the write, this tells our copy from a user's: without an agreed version nothing else does, and of a
        # large one the stamp may lack the content hash that would prove it (rules 1 and 4, docs/adr/0002).
        lossy = _too_much(source, side)
        ours = (scene.recovered and expected) or ""  # what the copy replaces is ours, and nothing else knows
        if ours and scene.base is not None and scene.base.etag(side) == NO_ETAG:
            ours = of_nothing(ours)
        intent = _base(scene, side, source, written, other_etag=ours, md5=source.version.md5, lossy=lossy)
        await ctx.state.intend(scene.lease, scene.key, intent)
    content = content_name(source.version.md5, source.version.size_bytes)
    if content and decision.reason in (Reason.NEW, Reason.RECREATED):
        await ctx.state.note_created(scene.key, content, now_us=ctx.clock.now_us())
    copy = _copy_small if ctx.transfer.is_small(source.version.size_bytes) else _copy_large
    async with _damage_is_ours(ctx, scene, side, source, written):
        md5, result, as_of_us = await copy(ctx, scene, destination, (side, source, written), expected)
    base = _base(scene, side, source, written, other_etag=result.etag, md5=md5, lossy=result.lossy)
    return replace(base, vast_as_of_us=as_of_us)


@asynccontextmanager
async def _damage_is_ours(ctx: PairContext, scene: Scene, side: Side, source: Present, written: Stamp) -> AsyncIterator[None]:
    """Record what a write of *source* left damaged on the other side, or the next look would take it for a user's (rule 1)."""
    try:
        yield
    except FederationError as error:
        if error.left_etag:
            lossy, left_etag = _too_much(source, side), of_nothing(error.left_etag)
            left = _base(scene, side, source, written, other_etag=left_etag, md5=None, lossy=lossy)
            with suppress(FederationError):  # what led here is the one to report
                await ctx.intend(scene.lease, scene.key, replace(left, vast_as_of_us=await _as_of(ctx, scene, side.other)))
        raise


async def _copy_large(
    ctx: PairContext, scene: Scene, destination: ObjectStore, origin: tuple[Side, Present, Stamp], expected: str | None
) -> tuple[str, WriteResult, int]:
    side, source, written = origin
    await scene.let_go()  # its parts are asked for one by one
    last = _LastLook(ctx, scene, destination.side)
    stamp = new_stamp(scene.key, source, side, written) if ctx.origin_stamps else None
    copied = await ctx.transfer.send_large(
        Original(ctx.stores[side], scene.key, source),
        Target(destination, scene.key, source.metadata, stamp, expected),
        journal=KeyJournal(ctx.state, scene.lease, scene.key, ctx.stores, ctx.clock),
        unchanged=partial(still_the_same, ctx.stores[side], scene.key, source),
        confirm=last.look,
    )
    return copied.md5, copied.result, last.as_of_us


async def _copy_small(
    ctx: PairContext, scene: Scene, destination: ObjectStore, origin: tuple[Side, Present, Stamp], expected: str | None
) -> tuple[str, WriteResult, int]:
    side, source, written = origin
    if scene.room is None:
        scene.room = await ctx.transfer.budget.room(source.version.size_bytes, of=flow.get())
    try:
        if scene.content is None:
            original = Original(ctx.stores[side], scene.key, source)
            if scene.reader is None and not original.checked_bytes:
                scene.reader = await ctx.stores[side].open(scene.key, if_match=source.version.etag)
            scene.content = await ctx.transfer.read_small(original, scene.reader)
        data, md5 = scene.content.data, scene.content.md5
        await still_the_same(ctx.stores[side], scene.key, source)
        known = source if source.version.md5 == md5 else replace(source, version=replace(source.version, md5=md5))
        stamp = new_stamp(scene.key, known, side, written) if ctx.origin_stamps else None
        last = _LastLook(ctx, scene, destination.side)
        with confirmed_by(last.look):
            result = await destination.put(scene.key, data, source.metadata, stamp=stamp, expected_etag=expected)
        return md5, result, last.as_of_us
    finally:
        scene.content = None
        await scene.let_go()


async def _metadata(ctx: PairContext, scene: Scene, decision: Decision) -> Base:
    side = decision.destination.other
    source, target = _carrying_back(scene, decision), scene.present(decision.destination)
    await _preserve(ctx, scene, decision, copy_bytes=False)
    written = logical_stamp(source, side, scene.rules)
    md5 = source.version.md5 or target.version.md5 or (scene.base.md5 if scene.base is not None else None)
    known = replace(source, version=replace(source.version, md5=md5))
    last = _LastLook(ctx, scene, decision.destination)

    async def halfway(held: Metadata) -> None:
        # Its stamp is of before. Who else gave it these headers loses nothing when the rest of the source's metadata follows.
        ours = target.version.etag if scene.recovered else ""
        intent = _base(scene, side, source, written, other_etag=ours, md5=md5, lossy=_too_much(source, side))
        digest = mapping.digest(mapping.shared(held, decision.destination))
        await ctx.state.intend(scene.lease, scene.key, replace(intent, metadata_digest=digest, deleted=True))

    async with _damage_is_ours(ctx, scene, side, source, written):
        with confirmed_by(last.look):
            result = await ctx.stores[decision.destination].replace_metadata(
                scene.key,
                source.metadata,
                stamp=new_stamp(scene.key, known, side, written) if ctx.origin_stamps else None,
                expected_etag=target.version.etag,
                halfway=halfway,
            )
    base = _base(scene, side, source, written, other_etag=result.etag, md5=md5, lossy=result.lossy)
    return replace(base, vast_as_of_us=last.as_of_us)


async def _delete(ctx: PairContext, scene: Scene, decision: Decision) -> Base:
    on = decision.destination
    target = scene.present(on)
    if not scene.delete_released:
        await _reserve_delete(ctx, scene, on)
    await _preserve(ctx, scene, decision, copy_bytes=True)
    gone = scene.of(on.other)
    when = gone.deleted if isinstance(gone, Absent) else None
    tombstone = Base(deleted=True, written=when or Stamp(ctx.clock.now_us(), 1, StampOrigin.SCAN))
    etag = target.version.etag
    if not scene.recovered:  # else what tells our copy from a user's version is still needed, should nothing come of the delete
        # Should we die after it, this tells our delete from a user's, which would beat an older object put back meanwhile.
        intent = replace(tombstone, blob_etag=etag) if on is Side.BLOB else replace(tombstone, vast_etag=etag)
        await ctx.state.intend(scene.lease, scene.key, intent)
    with confirmed_by(_LastLook(ctx, scene, on).look):
        await ctx.stores[on].delete(scene.key, expected_etag=etag)
    return tombstone


async def _reserve_delete(ctx: PairContext, scene: Scene, on: Side) -> None:
    target = scene.present(on).version
    content = content_name(target.md5 or (scene.base.md5 if scene.base is not None else None), target.size_bytes)
    if content:
        await ctx.state.note_deleted(scene.key, content, now_us=ctx.clock.now_us())
    gone = scene.of(on.other)
    deleted = gone.deleted if isinstance(gone, Absent) else None
    if scene.delete_held:
        raise DeleteHeld(on, deleted)  # until a person says otherwise, however much budget a new window has
    if await ctx.state.note(f"{MASS_DELETE}{on.other}"):
        raise DeleteHeld(on, deleted)  # a scan knows before the first delete that they are too many (rule 8)
    await ctx.require_side(on.other)
    # The version is named too: a key that is written again and deleted again within the window is another delete. By the base,
    # which is the same for an attempt that did not look at this side and for its repeat that did.
    agreed = scene.base is not None and scene.base.live and scene.base.etag(on) == target.etag
    at_us = scene.base.written.at_us if scene.base is not None and agreed else target.modified.at_us
    version = f"{at_us}@{target.etag.replace(':', '')}"
    granted = await ctx.state.reserve_delete(
        f"{on}@{version}:{scene.key}", ctx.delete_budget, objects=await ctx.known_objects(), now_us=ctx.clock.now_us()
    )
    if not granted:
        raise DeleteHeld(on, deleted)


async def _reserve_revert(ctx: PairContext, scene: Scene, zone: Side) -> None:
    """No endless duel, no endless copies: who keeps writing in a read-only zone is told off a few times, then people are told."""
    here = scene.of(zone)
    if isinstance(here, Present):
        name = f"{here.version.etag}@{here.version.modified.at_us}"
    else:
        name = f"gone@{scene.base.vast_as_of_us if scene.base is not None else 0}"
    granted = await ctx.state.reserve_revert(
        scene.key, name, limit=ctx.revert_limit, window_seconds=REVERT_WINDOW_SECONDS, now_us=ctx.clock.now_us()
    )
    if not granted:
        raise Park(
            f"somebody keeps changing this key on {zone}, which is read-only: it was put back {ctx.revert_limit} times within an "
            "hour and is left as it is now. Stop that writer, then retry the key; or change revert_limit",
            reason="revert_limit",
            key=scene.key,
            side=zone,
        )


@dataclass(slots=True)
class _LastLook:
    """Taken right before a write on *side*. ``as_of_us``: see ``_as_of``."""

    ctx: PairContext
    scene: Scene
    side: Side
    as_of_us: int = 0

    async def look(self) -> None:
        """Raises as ``require_as_looked``."""
        await require_as_looked(self.ctx, self.scene, self.side)
        self.as_of_us = await _as_of(self.ctx, self.scene, self.side)


async def _as_of(ctx: PairContext, scene: Scene, written_side: Side) -> int:
    """Asked right before a write: a version we write is as of then, not as of the answer; one we read as of when we asked."""
    return await ctx.vast_surely_us() if written_side is Side.VAST else scene.vast_as_of_us


def _base(
    scene: Scene, side: Side, source: Present, written: Stamp, *, other_etag: str, md5: str | None, lossy: bool = False
) -> Base:
    etags = {side: source.version.etag, side.other: other_etag}
    return Base(
        blob_etag=etags[Side.BLOB],
        vast_etag=etags[Side.VAST],
        md5=md5,
        metadata_digest=source.metadata_digest,
        written=written,
        size_bytes=source.version.size_bytes,
        lossy=lossy or source.metadata != scene.present(side).metadata,
        vast_as_of_us=scene.vast_as_of_us,
    )
