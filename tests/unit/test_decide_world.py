"""A small abstract world: users write on both sides, a worker decides, applies, sometimes dies. It converges, nothing is lost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal

from hypothesis import event, given, settings
from hypothesis import strategies as st

from federation.model import Absent, Base, Foreign, Mode, OriginStamp, Present, Side, Stamp, StampOrigin, Version
from federation.rules.decide import decide
from federation.rules.decision import Action, Decision, Rules
from federation.rules.precedence import logical_stamp

SECOND = 1_000_000
Value = tuple[str, str]
"""Content and metadata."""


@dataclass(frozen=True)
class Obj:
    """What one side holds. ``versions``: the users' versions it stands for."""

    value: Value
    present: Present
    versions: frozenset[int]
    copied: Value | None = None
    """What we wrote there, where our stamp still is: the same value in a file written since is nobody's loss."""


@dataclass
class World:
    """One key. A user who writes on a side has seen what was there: that version is superseded."""

    rules: Rules
    sides: dict[Side, Obj | None] = field(default_factory=lambda: dict.fromkeys(Side))
    deleted: dict[Side, Stamp | None] = field(default_factory=lambda: dict.fromkeys(Side))
    base: Base | None = None
    agreed: Value | None = None
    superseded: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    now_us: int = 1_700_000_000 * SECOND
    serial: count[int] = field(default_factory=lambda: count(1))

    # ------------------------------------------------------------------------------------------------------------ users

    def write(self, side: Side, value: Value, *, told: bool, file_side: bool = False) -> None:
        """A user writes, over S3 or Blob, or (on VAST) over NFS, which keeps metadata and stamp and shows no hash."""
        before = self.sides[side]
        file_side = file_side and side is Side.VAST and before is not None
        if file_side and before is not None:
            value = (value[0], before.value[1])
        version = next(self.serial)
        self._seen(side)
        stamped = before if file_side else None
        stamp, copied = (stamped.present.origin, stamped.copied) if stamped is not None else (None, None)
        written = self._object(side, value, stamp, frozenset({version}), told=told, file_side=file_side)
        self.sides[side] = replace(written, copied=copied)

    def change_metadata(self, side: Side, metadata: str, *, told: bool) -> None:
        """A user replaces metadata; on VAST the ETag stays. The stamp's seal is broken."""
        before = self.sides[side]
        if before is None or before.value[1] == metadata:
            return
        self._seen(side)
        changed = self._object(side, (before.value[0], metadata), None, frozenset({next(self.serial)}), told=told)
        if side is Side.VAST:
            same = replace(changed.present.version, etag=before.present.version.etag, md5=before.present.version.md5)
            changed = replace(changed, present=replace(changed.present, version=same))
        self.sides[side] = changed

    def remove(self, side: Side, *, told: bool) -> None:
        """A user deletes."""
        if self.sides[side] is None:
            return
        self._seen(side)
        self.sides[side] = None
        self.deleted[side] = Stamp(self.now_us, 1, StampOrigin.EVENT) if told else None

    def _seen(self, side: Side) -> None:
        before = self.sides[side]
        if before is not None:
            self.superseded |= before.versions
        self.deleted[side] = None

    def _object(
        self,
        side: Side,
        value: Value,
        origin: OriginStamp | None,
        versions: frozenset[int],
        *,
        told: bool,
        file_side: bool = False,
    ) -> Obj:
        opaque = file_side or side is Side.BLOB
        etag = f"{side}-{next(self.serial)}" if opaque else f"s3-{value[0]}"
        version = Version(
            etag, len(value[0]), Stamp(self.now_us // SECOND * SECOND), md5=None if file_side else f"md5-{value[0]}"
        )
        written = Stamp(self.now_us, 1, StampOrigin.EVENT) if told else None
        return Obj(value, Present(version, origin=origin, metadata_digest=value[1].encode(), written=written), versions)

    # ----------------------------------------------------------------------------------------------------------- worker

    def decision(self) -> Decision:
        """What is to be done; contents are hashed where that is asked for, once."""
        decided = self._decide()
        if decided.action is Action.HASH:
            for side in decided.sides:
                held = self.sides[side]
                assert held is not None
                hashed = replace(held.present.version, md5=f"md5-{held.value[0]}")
                self.sides[side] = replace(held, present=replace(held.present, version=hashed))
            decided = self._decide()
        assert decided.action is not Action.HASH
        return decided

    def _decide(self) -> Decision:
        seen = {side: held.present if held else Absent(self.deleted[side]) for side, held in self.sides.items()}
        return decide(seen[Side.BLOB], seen[Side.VAST], self.base, self.rules)

    def step(self, *, dies: bool = False) -> Decision:
        """Decide and apply; a worker that dies has written and does not record it."""
        decided = self.decision()
        event(decided.action)
        base, agreed = self._apply(decided)
        if not dies:
            self.base, self.agreed = base, agreed
            self.deleted = dict.fromkeys(Side)
            for side, held in self.sides.items():
                self.sides[side] = replace(held, present=replace(held.present, written=None)) if held else None
        return decided

    def _apply(self, decided: Decision) -> tuple[Base | None, Value | None]:
        blob, vast = self.sides[Side.BLOB], self.sides[Side.VAST]
        match decided.action:
            case Action.ADOPT if blob is not None and vast is not None:
                assert blob.value == vast.value, "adopted what differs"
                both = blob.versions | vast.versions
                self.sides = {Side.BLOB: replace(blob, versions=both), Side.VAST: replace(vast, versions=both)}
                return self._record(Side.BLOB), blob.value
            case Action.ADOPT:
                return Base(deleted=True) if self.base else None, None
            case Action.KEEP:
                assert decided.source is not None
                return self._record(decided.source), None
            case Action.COPY | Action.METADATA:
                return self._carry(decided)
            case Action.DELETE:
                self._overwrite(decided, frozenset())
                self.sides[decided.destination] = None
                return Base(deleted=True), None
            case _:
                return self.base, self.agreed

    def _carry(self, decided: Decision) -> tuple[Base, Value]:
        side, to = decided.destination.other, decided.destination
        source, target = self.sides[side], self.sides[to]
        assert source is not None
        self._overwrite(decided, source.versions)
        written = logical_stamp(source.present, side, self.rules)
        stamp = OriginStamp(side, source.present.version.etag, written, f"md5-{source.value[0]}", "")
        copied = self._object(to, source.value, stamp, source.versions, told=False)
        if decided.action is Action.METADATA:
            assert target is not None
            assert target.value[0] == source.value[0], "metadata carried between different contents"
            if to is Side.VAST:
                kept = replace(copied.present.version, etag=target.present.version.etag, md5=target.present.version.md5)
                copied = replace(copied, present=replace(copied.present, version=kept))
        self.sides[to] = replace(copied, copied=source.value)
        return self._record(side), source.value

    def _overwrite(self, decided: Decision, by: frozenset[int]) -> None:
        """Rule 1: what goes is kept, seen by the user who wrote after it, carried on, or the very version both had agreed on."""
        target = self.sides[decided.destination]
        if target is None:
            return
        if decided.preserve is not None:
            self.kept |= target.versions
        accounted = target.versions <= self.superseded | self.kept | by
        assert accounted or target.value in (self.agreed, target.copied), "a user's version is lost"

    def _record(self, side: Side) -> Base:
        here = self.sides[side]
        assert here is not None
        etags = {one: held.present.version.etag if held else "" for one, held in self.sides.items()}
        return Base(
            etags[Side.BLOB],
            etags[Side.VAST],
            f"md5-{here.value[0]}",
            here.value[1].encode(),
            logical_stamp(here.present, side, self.rules),
            len(here.value[0]),
        )


What = Literal["write", "file", "metadata", "remove", "work", "die"]


@dataclass(frozen=True)
class Op:
    """One thing that happens, some time after the one before."""

    what: What
    side: Side
    content: str
    metadata: str
    told: bool
    after_us: int


ops = st.builds(
    Op,
    st.sampled_from(["write", "write", "file", "metadata", "remove", "work", "work", "die"]),
    st.sampled_from(Side),
    st.sampled_from(["a", "b", "long", ""]),
    st.sampled_from(["m", "n"]),
    st.booleans(),
    st.sampled_from([1000, 400_000, 3 * SECOND, 60 * SECOND]),
)
rulesets = st.builds(
    Rules,
    mode=st.sampled_from(Mode),
    tie_winner=st.sampled_from(Side),
    deletes_to_blob=st.booleans(),
    deletes_to_vast=st.booleans(),
    foreign=st.sampled_from(Foreign),
)


def happen(world: World, op: Op) -> None:
    """Let it happen."""
    world.now_us += op.after_us
    match op.what:
        case "write" | "file":
            world.write(op.side, (op.content, op.metadata), told=op.told, file_side=op.what == "file")
        case "metadata":
            world.change_metadata(op.side, op.metadata, told=op.told)
        case "remove":
            world.remove(op.side, told=op.told)
        case "work" | "die":
            world.step(dies=op.what == "die")


@given(rulesets, st.lists(ops, max_size=12))
@settings(max_examples=400)
def test_the_world_converges_and_no_version_is_lost(rules: Rules, history: list[Op]) -> None:
    """After any history two passes are enough; both sides are equal save what rules let differ; nothing was lost on the way."""
    world = World(rules)
    for op in history:
        happen(world, op)
    world.step()
    world.step()

    assert world.decision().action in (Action.NOTHING, Action.ADOPT)
    blob, vast = world.sides[Side.BLOB], world.sides[Side.VAST]
    if blob is not None and vast is not None:
        assert blob.value == vast.value
    elif blob is not None or vast is not None:
        holder = Side.BLOB if blob is not None else Side.VAST
        assert not rules.mode.writable(holder) or not rules.deletes_to(holder)
        assert rules.foreign is Foreign.KEEP or not rules.deletes_to(holder)


@given(rulesets, st.lists(ops, max_size=12))
def test_a_second_pass_writes_nothing(rules: Rules, history: list[Op]) -> None:
    """One pass that is recorded settles a key: the next moves no byte, with or without an earlier crash."""
    world = World(rules)
    for op in history:
        happen(world, op)
    world.step()

    assert world.decision().action in (Action.NOTHING, Action.ADOPT)
