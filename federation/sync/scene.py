"""What one pass over a key knows of both sides, and what it holds meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.errors import NotPresent, Reobserve
from federation.model import Absent, Base, Metadata, Present, Side
from federation.ports import ObjectStore, Reader
from federation.progress import Lease
from federation.rules.decision import Rules
from federation.sync.budget import Room
from federation.sync.context import PairContext
from federation.sync.transfer import Content

_JUST_NOW_SECONDS = 1.0


@dataclass(slots=True)
class Scene:
    """What is known of one key while it is worked on. ``reader``/``content``: the source's content, where a GET is under way."""

    key: str
    lease: Lease
    base: Base | None
    blob: Present | Absent
    vast: Present | Absent
    rules: Rules
    vast_as_of_us: int
    """VAST's time as of which ``vast`` is known."""
    delete_released: bool = False
    delete_held: bool = False
    recovered: bool = False
    """``base`` is not recorded: it rests on an intent and on our stamp."""
    by_person: bool = False
    """An operator asked for this pass."""
    reader: Reader | None = None
    content: Content | None = None
    room: Room | None = None
    """Memory for ``content``."""
    looked: dict[Side, tuple[float, Present]] = field(default_factory=dict)
    """When a side was looked at last (monotonic), and what was seen there."""

    def of(self, side: Side) -> Present | Absent:
        """What *side* holds."""
        return self.blob if side is Side.BLOB else self.vast

    def learn(self, side: Side, here: Present | Absent) -> None:
        """*side* holds *here*."""
        if side is Side.BLOB:
            self.blob = here
        else:
            self.vast = here

    def present(self, side: Side) -> Present:
        """What *side* holds, where the decision implies that it holds something."""
        here = self.of(side)
        if isinstance(here, Absent):
            raise AssertionError(f"{side} holds nothing, yet the decision reads it")  # noqa: TRY004 - a broken invariant
        return here

    async def let_go(self) -> None:
        """End the GET under way and give its memory back. Idempotent."""
        reader, self.reader = self.reader, None
        room, self.room = self.room, None
        if reader is not None:
            await reader.close()
        if room is not None:
            room.close()


async def require_as_looked(ctx: PairContext, scene: Scene, side: Side) -> None:
    """Right before a write: look again at what it replaces on *side*, unless that was looked at just now (rule 5).

    No condition on an S3 ETag sees that its metadata changed (docs/adr/0008), and since the look a body may have been read for
    hours, or have waited for memory. Raises Reobserve.
    """
    seconds, seen = scene.looked.get(side, (0.0, None))
    now_seconds = ctx.clock.monotonic_seconds()
    if seen is None or now_seconds - seconds < _JUST_NOW_SECONDS:
        return
    # RACE: metadata changed on VAST between this look and the write is lost with the version that is replaced.
    await require_same(ctx.stores[side], scene.key, seen)
    scene.looked[side] = now_seconds, seen


async def require_same(store: ObjectStore, key: str, seen: Present) -> None:
    """Raise Reobserve where *store* does not hold just what was *seen*.

    By size and time as well: on some servers a file keeps its ETag, whatever is written into it (docs/adr/0005).
    """
    try:
        now = await store.head(key)
    except NotPresent:
        now = None
    if now is None or _told(now) != _told(seen):
        raise Reobserve("the object changed since it was looked at", reason="precondition", key=key, side=store.side)


def _told(here: Present) -> tuple[str, int, int, Metadata]:
    version = here.version
    return version.etag, version.size_bytes, version.modified.at_us, here.metadata
