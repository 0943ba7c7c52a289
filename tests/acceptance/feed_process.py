"""One process that reads the change feed into a real Redis, to be killed: ``python -m tests.acceptance.feed_process RUN``.

Before each mark it notes in Redis what it is about to mark, and after it what was marked, so that the parent can count both.
Told by the environment: FEED (connection string of the account), REDIS (URL).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from redis.asyncio import Redis

from federation.clock import SystemClock
from federation.model import Change
from federation.payloads.event_grid import BlobScope
from federation.progress import MarkResult
from federation.sources.change_feed import ChangeFeed, FeedOptions
from federation.state.redis_state import RedisState
from federation.stores.change_feed import AzureChangeFeed

PAIR = "feed-acceptance"
BEGUN, DONE, GAPS = "acceptance:begun", "acceptance:done", "acceptance:gaps"
SCOPE = BlobScope("", "datasets", "", lambda name: name)
OPTIONS = FeedOptions(start="start", poll_seconds=0.2, lease_seconds=1.0)


class NotedSink:
    """``ports.ChangeSink`` over the real state."""

    def __init__(self, state: RedisState, redis: Redis, run: str) -> None:
        self._state = state
        self._redis = redis
        self._run = run
        self._batches = 0

    async def mark(self, changes: Sequence[Change]) -> MarkResult:
        """As in the port."""
        self._batches += 1
        noted = f"{self._run} {self._batches} " + " ".join(change.key for change in changes)
        await self._redis.rpush(BEGUN, noted)
        result = await self._state.mark(changes)
        await self._redis.rpush(DONE, noted)
        return result


async def main(run: str) -> None:
    """Read until killed."""
    clock = SystemClock()
    redis = Redis.from_url(os.environ["REDIS"])
    state = RedisState(redis, PAIR, shards=8, clock=clock)
    await state.open()
    sink = NotedSink(state, redis, run)
    blobs = AzureChangeFeed(account_url="", connection_string=os.environ["FEED"], credential=None)

    async def gap(prefix: str = "") -> None:
        await redis.rpush(GAPS, f"{run} {prefix}")

    source = ChangeFeed(blobs, "acct", SCOPE, state, sink, clock, owner=f"reader-{run}", on_gap=gap, options=OPTIONS)
    await source.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
