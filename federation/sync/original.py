"""What is copied, read so that damage on the way is noticed (docs/adr/0018)."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass

from federation.errors import Reobserve, RetryLater
from federation.model import ETagKind, Present
from federation.ports import ObjectStore
from federation.sync.reading import Extent, Opens, pieces, read_all, read_checked

AGAIN_SECONDS = 1.0
"""After a damaged reading: what damaged it may have passed by then."""


@dataclass(frozen=True, slots=True)
class Original:
    """What is copied: exactly the version *present* under *key*."""

    store: Opens
    key: str
    present: Present

    def extent(self, start: int = 0, length: int | None = None) -> Extent:
        """All of it, or a range."""
        version = self.present.version
        length = version.size_bytes if length is None else length
        return Extent(self.store, self.key, version.etag, start, length, version.size_bytes)

    @property
    def unproved(self) -> bool:
        """Whether no hash is known that would tell damaged content (docs/adr/0018)."""
        return self.present.version.md5 is None and self.present.version.size_bytes > 0

    @property
    def checked_bytes(self) -> int:
        """In ranges of what size it is read, so that each brings its checksum; 0: as it comes."""
        return self.store.checked_bytes if self.unproved else 0

    async def read(self, start: int, length: int) -> bytes:
        """A range of it."""
        extent = self.extent(start, length)
        return await (read_checked(extent, self.checked_bytes) if self.checked_bytes else read_all(extent))

    async def compare(self, start: int, data: bytes) -> None:
        """Read what was read as *data* once more where nothing else would tell damage. Raises RetryLater when it reads otherwise.

        A piece is compared as it comes and let go: beside what the socket holds it takes no memory.
        """
        if not self.unproved or self.checked_bytes or self.store.sealed:
            return
        at = 0
        async with aclosing(pieces(self.extent(start, len(data)))) as parts:
            async for piece in parts:
                if not data.startswith(piece, at):
                    text = "two readings of one version differ"
                    raise RetryLater(text, reason="content_mismatch", after_seconds=AGAIN_SECONDS)
                at += len(piece)


def _identity(present: Present) -> tuple[str, int, int]:
    version = present.version
    return version.etag, version.modified.at_us, version.size_bytes


async def still_the_same(store: ObjectStore, key: str, present: Present) -> None:
    """Raise Reobserve when a file-side version changed while it was read; S3 writes are atomic and need no second look."""
    if present.version.etag_kind is not ETagKind.FILE_SIDE and not present.version.content_moved:
        return
    if _identity(await store.head(key)) != _identity(present):
        raise Reobserve("the file changed while it was read", reason="changed_while_read", key=key, side=store.side)
