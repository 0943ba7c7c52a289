"""A worker as a process of its own, on real Redis, between two empty sides in its memory: every key comes out absent on both.

python -m tests.servers.worker_main <folder of the embedded Redis> <shards> <lease seconds>
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from federation.clock import SystemClock
from federation.model import Side
from federation.progress import DeleteBudget
from federation.rules.decision import Rules
from federation.settings import RedisSettings
from federation.state.embedded import connect
from federation.state.redis_state import RedisState
from federation.stores.memory import MemoryStore
from federation.sync.budget import ByteBudget
from federation.sync.context import PairContext
from federation.sync.paced_store import PacedStore
from federation.sync.pacing import Gate
from federation.sync.transfer import Transfer, TransferLimits
from federation.sync.worker import Worker, WorkerLimits
from federation.wiring import owner_name
from fedplane.engine import stop_on_signals


async def main(folder: Path, shards: int, lease_seconds: float) -> None:
    """Work until SIGTERM."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    clock = SystemClock()
    client, _ = await connect(RedisSettings(directory=folder))
    gates = {side: Gate(side, clock) for side in Side}
    ctx = PairContext(
        name="pair",
        stores={side: PacedStore(MemoryStore(side, clock=clock), gates[side]) for side in Side},
        state=RedisState(client, "pair", shards=shards, clock=clock),
        clock=clock,
        transfer=Transfer(TransferLimits(1 << 20, 1 << 20, 2), ByteBudget(1 << 30)),
        rules=Rules(),
        delete_budget=DeleteBudget(count=1, share=0.0, window_seconds=600),
        quiet_us=0,
    )
    worker = asyncio.create_task(Worker(ctx, gates, WorkerLimits(8, lease_seconds, 5.0, 2), owner=owner_name()).run())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({worker, stopping}, return_when=asyncio.FIRST_COMPLETED)
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)
    await ctx.state.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
