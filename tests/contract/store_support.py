"""What the contract tests of the stores share: keys, metadata, short ways to write and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from federation.model import ListEntry, Metadata, OriginStamp, Side, Stamp, StampOrigin
from federation.ports import ObjectStore

PART = 5 * 1024 * 1024
FULL = Metadata(
    content_type="text/plain; charset=utf-8",
    content_encoding="x-own",
    content_language="de",
    content_disposition='attachment; filename="a b.txt"',
    cache_control="no-cache",
    user=(("mtime", "1700000000.123456789"), ("plain", "50% of it"), ("with-hyphen", "  padded  "), ("ünïcode.name", "grün\n☃")),
)
STAMP = OriginStamp(
    Side.VAST, "5d41402abc4b2a76b9719d911017c592-3", Stamp(1_700_000_000_123_456, 1, StampOrigin.EVENT), "a" * 32, "0" * 16
)
ODD_KEYS = (
    " leading and trailing ",
    "a b+c%2F%20?x=1#é&y",
    "a//b",
    "/rooted",
    "./x",
    "a/../b",
    "..",
    "dir/file.",
    "tail...",
    "back\\slash",
    'q"<>|*:?',
    "new\nline",
    "tab\tdelete\x7f",
    "e\u0301 nfd",
    "\u00e9 nfc",
    "wide\uff1aquote\u201b\uff1a",
    "emoji \U0001f600",
    "\uff0e/\uff0f",
    "long/" + "x" * 200,
    "x/../y",
    "x//y",
    "trail/./z",
    "'single' & \"double\"; a,b=c$d!(e)~[f]{g}^h`i@j",
    "$web/index.html",
    "%25%00%2e%2E+",
    "+",
    "~",
    "line\u2028separator",
    "segment /with space",
    "\u202eright to left",
    "zero\u200bwidth",
    "\uff46\uff55\uff4c\uff4c width",
    "\U0010fffd plane 16",
)


class Made(Protocol):
    """What the ``case`` fixture gives."""

    kind: str
    container: str

    @property
    def side(self) -> Side:
        """Which side."""
        ...

    def make(
        self, *, container: str | None = None, prefix: str = "", secret: str | None = None, map_tags: bool = False
    ) -> ObjectStore:
        """Another store."""
        ...


async def put(store: ObjectStore, key: str, data: bytes = b"data", expected: str | None = None) -> str:
    """Write with plain metadata; the new ETag."""
    return (await store.put(key, data, Metadata(), stamp=None, expected_etag=expected)).etag


async def get(store: ObjectStore, key: str) -> bytes:
    """The whole content."""
    return await (await store.open(key)).read()


async def listed(store: ObjectStore, *, prefix: str = "", start_after: str = "") -> list[ListEntry]:
    """A whole listing."""
    return [entry async for entry in store.list(prefix=prefix, start_after=start_after)]


async def listed_keys(store: ObjectStore, *, prefix: str = "", start_after: str = "") -> list[str]:
    """The keys of a whole listing."""
    return [entry.key for entry in await listed(store, prefix=prefix, start_after=start_after)]


def by_bytes(names: Sequence[str]) -> list[str]:
    """In the port's order."""
    return sorted(names, key=str.encode)
