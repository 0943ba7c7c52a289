"""Faults in the content of objects on its way through a proxy: a byte changed, a connection closed midway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from random import Random

from fedplane.localstack.faults import RequestFaults

SENDING = frozenset({"put", "put_block", "upload_part"})
READING = frozenset({"get"})


class ContentFault:
    """What happens to one content: drawn once, when it begins to pass."""

    def __init__(self, faults: RequestFaults | None, rng: Random, size_bytes: int, count: Callable[[str], None]) -> None:
        self._count = count
        self.corrupt_at = self.cut_at = -1
        if faults is None or not size_bytes:
            return
        if faults.corrupt and rng.random() < faults.corrupt:
            self.corrupt_at = rng.randrange(size_bytes)
        if faults.cut_midway and rng.random() < faults.cut_midway:
            self.cut_at = rng.randrange(size_bytes)

    @property
    def any(self) -> bool:
        """Whether anything happens to it."""
        return self.corrupt_at >= 0 or self.cut_at >= 0

    async def passed(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The content as it comes out. Raises ConnectionResetError where it is cut."""
        at = 0
        async for chunk in chunks:
            end = at + len(chunk)
            if at <= self.cut_at < end:
                self._count("cuts_midway")
                yield chunk[: self.cut_at - at]
                raise ConnectionResetError("cut midway, as asked for")
            yield self._damaged(chunk, at)
            at = end

    def _damaged(self, chunk: bytes, at: int) -> bytes:
        place = self.corrupt_at - at
        if not 0 <= place < len(chunk):
            return chunk
        self._count("corrupted")
        return chunk[:place] + bytes([chunk[place] ^ 0x20]) + chunk[place + 1 :]


async def in_one(content: bytes) -> AsyncIterator[bytes]:
    """A body in hand, as a stream."""
    yield content
