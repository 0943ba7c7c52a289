"""The feed's container with a few attempts more: a pass is many requests, and is begun anew when one of them fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from federation.backoff import backoff_seconds
from federation.errors import RetryLater
from federation.model import ListEntry
from federation.ports import Clock
from federation.sources.change_feed_index import FeedBlobs

_ATTEMPTS = 4
_LONGEST_PAUSE_SECONDS = 30.0
_T = TypeVar("_T")


class PatientBlobs:
    """``FeedBlobs`` over another one. *noted* is called before each repeat; the last refusal is raised."""

    def __init__(self, blobs: FeedBlobs, clock: Clock, noted: Callable[[RetryLater], None]) -> None:
        self._blobs = blobs
        self._clock = clock
        self._noted = noted

    async def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """As in the protocol."""
        return await self._patiently(lambda: self._blobs.read(name, start=start, length=length))

    async def entries(self, prefix: str) -> AsyncIterator[ListEntry]:
        """As in the protocol; handed out when the listing is whole."""

        async def whole() -> list[ListEntry]:
            return [entry async for entry in self._blobs.entries(prefix)]

        for entry in await self._patiently(whole):
            yield entry

    async def close(self) -> None:
        """As in the protocol."""
        await self._blobs.close()

    async def _patiently(self, step: Callable[[], Awaitable[_T]]) -> _T:
        for attempt in range(_ATTEMPTS - 1):
            try:
                return await step()
            except RetryLater as refused:
                self._noted(refused)
                pause = max(refused.after_seconds or 0.0, backoff_seconds(attempt, first_seconds=0.2))
                await self._clock.sleep(min(_LONGEST_PAUSE_SECONDS, pause))
        return await step()
