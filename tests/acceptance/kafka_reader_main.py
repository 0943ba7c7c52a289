"""One reading process of stages_kafka: ``python -m tests.acceptance.kafka_reader_main REDIS_URL BOOTSTRAP TOPIC GAPS_FILE``.

The engine's own source and state, and no worker: what is marked stays marked, so that it can be counted.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from federation.clock import SystemClock
from federation.errors import RetryLater
from federation.payloads.vast import VastScope
from federation.settings import RedisSettings, VastEventSettings
from federation.sources.build import kafka_options
from federation.sources.vast_kafka import VastKafka
from federation.state.embedded import connect
from federation.state.redis_state import RedisState

BUCKET = "datasets"


async def state_at(url: str) -> RedisState:
    """The state of the stage, opened."""
    client, _ = await connect(RedisSettings(url=url))
    state = RedisState(client, "stage", shards=16, clock=SystemClock())
    while True:
        try:
            await state.open()
        except RetryLater:
            await asyncio.sleep(0.2)
        else:
            return state


async def _main(url: str, bootstrap: str, topic: str, gaps: Path) -> None:
    async def on_gap(prefix: str = "") -> None:
        with gaps.open("a") as file:
            file.write(f"gap {prefix}\n")

    state = await state_at(url)
    options = kafka_options(VastEventSettings(bootstrap=(bootstrap,), topic=topic))
    scope = VastScope(BUCKET, "", "auto", lambda name: name)
    owner, group = f"reader:{os.getpid()}", "stage"
    await VastKafka(options, topic, scope, state, state, SystemClock(), on_gap=on_gap, owner=owner, group_id=group).run()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))
