"""The host as a process, for acceptance runs: ``python -m tests.functions_host.main --home DIR --instances 4``.

Runs until SIGTERM; what it saw is then in ``host.json`` below *home*, and the instances' logs beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
from pathlib import Path

from tests.functions_host.host import Host


async def main() -> None:
    """Host the app with the settings of the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument("--minute", type=float, default=60.0, help="seconds of the timers' minutes")
    parser.add_argument("--kill-every", type=float, default=0.0, help="seconds between kills of a worker")
    given = parser.parse_args()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    killed = 0
    async with Host(os.environ, given.home, instances=given.instances, minute_seconds=given.minute) as host:
        (given.home / "ready").touch()
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), given.kill_every or 1.0)
            except TimeoutError:
                if given.kill_every:
                    await host.kill_any()
                    killed += 1
            host.check()
        told = {one.name: dict(getattr(host.tally, one.name)) for one in dataclasses.fields(host.tally)}
        pids = [instance.pid for instance in host.instances]
    (given.home / "host.json").write_text(json.dumps({"killed": killed, "pids": pids} | told, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
