"""What one pass over a key knows of both sides, and what it holds meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.errors import NotPresent, Reobserve
from federation.model import Absent, Base, Present, Side
from federation.ports import Reader
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
    """What was seen at the last look at a side, and when (monotonic)."""

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
    if seen is None or ctx.clock.monotonic_seconds() - seconds < _JUST_NOW_SECONDS:
        return
    # RACE: metadata changed on VAST between this look and the write is lost with the version that is replaced.
    try:
        now = await ctx.stores[side].head(scene.key)
    except NotPresent:
        now = None
    if now is None or (now.version.etag, now.metadata) != (seen.version.etag, seen.metadata):
        raise Reobserve("the object changed since it was looked at", reason="precondition", key=scene.key, side=side)
    scene.looked[side] = ctx.clock.monotonic_seconds(), now
