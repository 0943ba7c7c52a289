"""One key, end to end (design 4.1): hint and base in, the base to settle with out.

(a) every hinted version is the agreed one: no request. (b) one side changed: read it, write the other side against the base: two
requests, and the conditional write proves what was assumed. (c) anything else, or a failed precondition: look at both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from federation.errors import NotPresent, Reobserve, RetryLater
from federation.model import Absent, Base, Change, ETagKind, Hint, HintEntry, Present, Side, Source
from federation.progress import Claim, Held, Lease
from federation.rules.decide import Since, decide, since_base
from federation.rules.decision import Action, Decision, Reason
from federation.rules.guards import changed_side, content_in_doubt, quiet_until_us
from federation.rules.proof import copy_of
from federation.sync.apply import apply
from federation.sync.context import PairContext
from federation.sync.observe import as_agreed, as_read_before, complete, delete_time, observe
from federation.sync.original import Original
from federation.sync.recovered import recovered
from federation.sync.scene import Scene

ROUNDS = 4
"""Times one claim looks again after a failed precondition before the key goes back to the queue."""


_ONE_LOOK_SECONDS = 1.0
"""Longer than this between the looks at both sides, a file may have come with a time of its own, older than the first look."""
_LONGEST_WRITE_US = 15 * 60 * 1_000_000
"""No request of ours takes longer (``stores.lane``)."""
_WRITES = frozenset({Action.COPY, Action.METADATA, Action.DELETE})


class NotQuiet(Exception):
    """A file-side version that may still be written: come back at ``until_us`` of our clock."""

    def __init__(self, until_us: int) -> None:
        super().__init__("the object may still be being written")
        self.until_us = until_us


@dataclass(frozen=True, slots=True)
class Synced:
    """What one pass over a key decided and left behind."""

    decision: Decision
    base: Base | None


async def sync_key(ctx: PairContext, lease: Lease, claim: Claim) -> Synced:
    """Bring one key in step. Raises NotQuiet, DeleteHeld, RetryLater, Park and Halt; nothing is recorded by this function."""
    hint, base = claim.hint, claim.base
    if claim.intent is None and claim.held is None:
        if only_echoes(hint, base):
            return Synced(Decision(Action.NOTHING, Reason.IN_STEP), base)
        side = changed_side(unagreed(hint, base))
        if side is not None and await _may_guess(ctx, hint, base):
            try:
                done = await _fast(ctx, lease, claim, side)
            except Reobserve:
                done = None  # the assumption did not hold; nothing was written
            if done is not None:
                return done
    for _ in range(ROUNDS):
        try:
            return await _look_at_both(ctx, lease, claim)
        except Reobserve:
            continue
    raise RetryLater("the object changes faster than it can be copied", reason="moving", key=hint.key)


# ------------------------------------------------------------------------------------------------------------- no request


def is_echo(entry: HintEntry, base: Base | None, side: Side) -> bool:
    """Whether a hinted version is the agreed one: our own write come back, or a repeat (rule 7)."""
    if base is None:
        return False
    if base.deleted:
        return entry.deleted
    if entry.deleted or entry.etag is None or entry.etag != base.etag(side):
        return False
    return base.told_by(side, entry.at)


def only_echoes(hint: Hint, base: Base | None) -> bool:
    """Whether nothing in the hint is news."""
    entries = [(side, entry) for side in Side for entry in hint.entries(side)]
    return bool(entries) and all(is_echo(entry, base, side) for side, entry in entries)


def unagreed(hint: Hint, base: Base | None) -> Hint:
    """The hint without its echoes."""
    if base is None:
        return hint
    return replace(
        hint,
        blob=tuple(entry for entry in hint.blob if not is_echo(entry, base, Side.BLOB)),
        vast=tuple(entry for entry in hint.vast if not is_echo(entry, base, Side.VAST)),
    )


# ----------------------------------------------------------------------------------------------------------- two requests


async def _may_guess(ctx: PairContext, hint: Hint, base: Base | None) -> bool:
    """Whether the side that the hint does not speak of may be taken to be as agreed, or empty where nothing was agreed.

    A wrong guess does no harm and costs the body of a refused write. After the base was lost it would be wrong most of the time,
    unless a listing has just shown that the other side is empty. Where the other side may hold metadata that this one could not
    take, it is read so that nothing of it is erased.
    """
    if base is not None and base.lossy:
        return False
    return base is not None or Source.RECONCILER in hint.sources or not await ctx.rebuilding()


async def _fast(ctx: PairContext, lease: Lease, claim: Claim, side: Side) -> Synced | None:
    """Read the changed side, assume the other is as agreed. None: not a case for this path; nothing was written."""
    scene = await _read_one(ctx, lease, claim, side)
    try:
        here = scene.of(side)
        if isinstance(here, Present):
            if side is Side.VAST and content_in_doubt(here, scene.base, claim.hint, now_us=await ctx.vast_now_us()):
                return None
            here = as_read_before(here, scene.base) if side is Side.VAST else here
            await _require_quiet(ctx, scene, claim.hint)
            scene.learn(side, await _with_small_content(ctx, scene, side, here))
        decision = decide(scene.blob, scene.vast, scene.base, scene.rules)
        if not _fits_fast_path(decision, side) or not await _as_assumed(ctx, scene, decision, side):
            return None
        return Synced(decision, await apply(ctx, scene, decision))
    finally:
        await scene.let_go()


def _fits_fast_path(decision: Decision, side: Side) -> bool:
    # Whatever needs the other side's real content, or loses a version, looks at both sides first.
    if decision.preserve is not None:
        return False
    if decision.action is Action.NOTHING or (decision.action is Action.ADOPT and decision.reason is Reason.EQUAL):
        return True
    return decision.action in (Action.COPY, Action.METADATA, Action.DELETE) and decision.source is side


async def _as_assumed(ctx: PairContext, scene: Scene, decision: Decision, side: Side) -> bool:
    """Look at the other side where no conditional write will prove that it is as agreed (rules 1 and 5).

    Adopting writes nothing: an object that is gone there would be agreed on. And an S3 ETag is a hash of the content, so no
    condition on it notices that VAST's metadata changed (docs/adr/0008); mapped tags move no ETag on either side.
    """
    adopts = decision.action is Action.ADOPT
    here = scene.of(side)
    tagged = isinstance(here, Present) and here.metadata.tags is not None
    if not adopts and (decision.action not in _WRITES or (decision.destination is not Side.VAST and not tagged)):
        return True
    other = side.other if adopts else decision.destination
    if not isinstance(scene.of(other), Present):
        return True
    # RACE: metadata changed on VAST between this look and the write is lost with the version that is replaced.
    now = await _look(ctx, scene, other, Hint(scene.key, 0))
    if not isinstance(now, Present) or since_base(now, scene.base, other) is not Since.SAME:
        return False
    # A file that was written into may keep its ETag (docs/adr/0005): then that is the agreed one, and the content is not. But
    # where the time may be that of our own write, which can take long, nothing is read to find that out.
    hint, now_us = Hint(scene.key, 0), await ctx.vast_now_us()
    return other is Side.BLOB or not content_in_doubt(now, scene.base, hint, now_us=now_us, slack_us=_LONGEST_WRITE_US)


async def _look(ctx: PairContext, scene: Scene, side: Side, hint: Hint) -> Present | Absent:
    """Observe, and note what was seen; of Blob only where tags are mapped: whatever else changes there moves its ETag."""
    seconds = ctx.clock.monotonic_seconds()
    now = await observe(ctx.stores[side], scene.key, hint)
    if isinstance(now, Present) and (side is Side.VAST or now.metadata.tags is not None):
        scene.looked[side] = seconds, now
    return now


async def _read_one(ctx: PairContext, lease: Lease, claim: Claim, side: Side) -> Scene:
    key, store = claim.hint.key, ctx.stores[side]
    scene = await _scene(ctx, lease, claim)
    if side is Side.BLOB:
        # VAST is not looked at here: what is known of it is as old as the base.
        scene.vast_as_of_us = claim.base.vast_as_of_us if claim.base is not None else 0
    entries = unagreed(claim.hint, claim.base).entries(side)
    if all(entry.etag is None for entry in entries) and claim.base is not None:
        # A delete to confirm, or "look at it": most often nothing is to be read.
        scene.learn(side, await observe(store, key, claim.hint))
        return scene
    scene.room = await ctx.transfer.room_to_read(claim.base.size_bytes if claim.base is not None else 0)
    try:
        scene.reader = await store.open(key)
        found = scene.reader.present.version
        if not ctx.transfer.fits(scene.room, found.size_bytes):
            await scene.let_go()
            scene.room = await ctx.transfer.room_to_read(found.size_bytes)
            scene.reader = await store.open(key, if_match=found.etag)
    except NotPresent:
        scene.learn(side, Absent(delete_time(claim.hint, side)))
        return scene
    finally:
        if scene.reader is None:
            await scene.let_go()
    scene.learn(side, complete(scene.reader.present, key, side, claim.hint))
    return scene


async def _with_small_content(ctx: PairContext, scene: Scene, side: Side, here: Present) -> Present:
    """Read a small body at once when its hash is not known: it decides, and is needed anyway."""
    if scene.reader is None or here.version.md5 is not None or not ctx.transfer.is_small(here.version.size_bytes):
        return here
    scene.content = await ctx.transfer.read_small(Original(ctx.stores[side], scene.key, here), scene.reader)
    return replace(here, version=replace(here.version, md5=scene.content.md5))


# -------------------------------------------------------------------------------------------------------------- both sides


async def _look_at_both(ctx: PairContext, lease: Lease, claim: Claim) -> Synced:
    hint, key = claim.hint, claim.hint.key
    scene = await _scene(ctx, lease, claim)
    began = ctx.clock.monotonic_seconds()
    scene.blob = await _look(ctx, scene, Side.BLOB, hint)
    scene.vast = await _look(ctx, scene, Side.VAST, hint)
    took_seconds = ctx.clock.monotonic_seconds() - began
    _recall_delete(scene, claim.held)
    scene.rules = await ctx.current_rules()  # by now both services have told their time
    await _hash_half_written(ctx, scene, claim.intent)
    await _hash_stamped(ctx, scene, claim.intent)
    base = recovered(scene.base, claim.intent, scene)
    scene.recovered, scene.base = base is not scene.base, base
    await _require_quiet(ctx, scene, hint)
    await _settle_doubt(ctx, scene, hint)
    decision = await decide_with_hashes(ctx, scene)
    if decision.action is Action.ADOPT and not await _at_one_moment(ctx, scene, took_seconds):
        raise Reobserve("the sides were equal, but not at one moment", reason="moving", key=key)
    held = _held_for(decision, claim.held)
    decision, scene.delete_released = _verdict(decision, held)
    scene.delete_held = held is not None
    return Synced(decision, await apply(ctx, scene, decision))


async def _at_one_moment(ctx: PairContext, scene: Scene, took_seconds: float) -> bool:
    """Whether both sides held what was seen at one moment: what is adopted no conditional write proves (rule 5).

    They are looked at one after the other. If VAST's version may be younger than the look at Blob, Blob is asked again: its ETags
    never come back, so the same one stood all the while.
    """
    blob, vast = scene.blob, scene.vast
    if isinstance(blob, Absent) or isinstance(vast, Absent):
        return True
    modified = vast.version.modified
    if took_seconds < _ONE_LOOK_SECONDS and modified.at_us + modified.precision_us <= scene.vast_as_of_us:
        return True
    now = await observe(ctx.stores[Side.BLOB], scene.key, Hint(scene.key, 0))
    return isinstance(now, Present) and now.version.etag == blob.version.etag


def _recall_delete(scene: Scene, held: Held | None) -> None:
    """A delete that waits for a person keeps the time its event told: without it, it would lose against any older edit."""
    if held is None:
        return
    side = held.delete_on.other
    if scene.of(side) == Absent():
        gone = Absent(held.deleted)
        scene.blob, scene.vast = (gone, scene.vast) if side is Side.BLOB else (scene.blob, gone)


async def _settle_doubt(ctx: PairContext, scene: Scene, hint: Hint) -> None:
    """Read a VAST version whose agreed ETag is in doubt; if it is another content, neither ETag nor origin stamp speak for it.

    What is copied then is a second reading, which must be the same, and of the size that a HEAD told.
    """
    here = scene.vast
    if isinstance(here, Absent):
        return
    if content_in_doubt(here, scene.base, hint, now_us=await ctx.vast_now_us()):
        md5 = await ctx.transfer.hash_object(ctx.stores[Side.VAST], scene.key, here)
        if scene.base is None or md5 != scene.base.md5:
            scene.vast = replace(here, version=replace(here.version, md5=md5, content_moved=True), origin=None)
            return
    scene.vast = as_read_before(here, scene.base)


async def _hash_half_written(ctx: PairContext, scene: Scene, intent: Base | None) -> None:
    """Read what may be Blob's object between two requests of ours, where only its content can tell."""
    here = scene.blob
    if intent is None or not intent.deleted or intent.md5 is None or isinstance(here, Absent) or here.version.md5 is not None:
        return
    if (here.metadata_digest, here.version.size_bytes) == (intent.metadata_digest, intent.size_bytes):
        md5 = await ctx.transfer.hash_object(ctx.stores[Side.BLOB], scene.key, here)
        scene.blob = replace(here, version=replace(here.version, md5=md5))


async def _hash_stamped(ctx: PairContext, scene: Scene, intent: Base | None) -> None:
    """Read what bears the stamp of a copy on VAST that was not recorded, where its ETag is no hash: users carry stamps along.

    Not a file: who writes it may not be done (``_require_quiet``).
    """
    here = scene.vast
    if intent is None or intent.deleted or isinstance(here, Absent) or here.origin is None or here.origin.md5 is None:
        return
    version = here.version
    if version.md5 is not None or version.etag_kind is ETagKind.FILE_SIDE:
        return
    if (here.origin.etag, version.size_bytes) == (intent.blob_etag, intent.size_bytes):
        md5 = await ctx.transfer.hash_object(ctx.stores[Side.VAST], scene.key, here)
        scene.vast = replace(here, version=replace(version, md5=md5))


async def decide_with_hashes(ctx: PairContext, scene: Scene) -> Decision:
    """Decide; where equality of the contents decides and is not known, read and hash, then decide again."""
    decision = decide(scene.blob, scene.vast, scene.base, scene.rules)
    if decision.action is not Action.HASH:
        return decision
    for number, side in enumerate(decision.sides):
        here = scene.present(side)
        md5 = await ctx.transfer.hash_object(ctx.stores[side], scene.key, here, more_hashed=number > 0)
        scene.learn(side, replace(here, version=replace(here.version, md5=md5)))
    return decide(scene.blob, scene.vast, scene.base, scene.rules)


def _held_for(decision: Decision, held: Held | None) -> Held | None:
    """The held delete if it is this one: a word on a delete of one side is none on a delete of the other (rule 8)."""
    mine = decision.action is Action.DELETE and held is not None and held.delete_on is decision.destination
    return held if mine else None


def _verdict(decision: Decision, held: Held | None) -> tuple[Decision, bool]:
    """A person's word on a held delete: released deletes it, rejected puts the object back, or leaves a foreign one alone."""
    if held is None:
        return decision, False
    if held.verdict == "rejected" and decision.reason is Reason.FOREIGN_IN_ZONE:
        return Decision(Action.KEEP, Reason.REJECTED_DELETE, source=decision.destination), False
    if held.verdict == "rejected":
        return Decision(Action.COPY, Reason.REJECTED_DELETE, source=decision.destination), False
    return decision, held.verdict == "released"


# ----------------------------------------------------------------------------------------------------------------- shared


async def _scene(ctx: PairContext, lease: Lease, claim: Claim) -> Scene:
    return Scene(
        key=claim.hint.key,
        lease=lease,
        base=claim.base,
        blob=as_agreed(claim.base, Side.BLOB),
        vast=as_agreed(claim.base, Side.VAST),
        rules=await ctx.current_rules(),
        vast_as_of_us=await ctx.vast_seen_us(),
        by_person=Source.OPERATOR in claim.hint.sources,
    )


async def _require_quiet(ctx: PairContext, scene: Scene, hint: Hint) -> None:
    here = scene.vast
    if isinstance(here, Absent):
        return
    known = scene.base is not None and here.version.etag == scene.base.vast_etag  # read and agreed on before
    now_us = await ctx.vast_now_us()
    if (known or copy_of(here, Side.BLOB)) and not content_in_doubt(here, scene.base, hint, now_us=now_us):
        return
    wait_us = quiet_until_us(here, hint, quiet_us=ctx.quiet_us, now_us=now_us) - now_us
    if wait_us > 0:
        modified, etag = here.version.modified, here.version.etag
        if modified.at_us > now_us and all(entry.etag != etag for entry in hint.vast):
            # A file of the future, seen first: from now on it counts (rules.guards.quiet_until_us).
            seen = replace(modified, at_us=now_us)
            await ctx.mark([Change(scene.key, Side.VAST, Source.RECONCILER, etag=etag, at=seen)])
        raise NotQuiet(ctx.clock.now_us() + wait_us)
