"""Stages about Redis going back or away under load: ``make accept-state``.

Each has a Redis of its own; users write keys of their own meanwhile and remember what they wrote: the ledger.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.acceptance import verify
from tests.acceptance.lab import HOME, NO_DELETE_LIMIT, Lab, Results, lab
from tests.acceptance.users import Crowd, Plan, Written
from tests.contract import redis_servers
from tests.contract.redis_servers import Server

_SETTINGS = {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "86400", **NO_DELETE_LIMIT}
"""Only the scan on start and those that are asked for: no later one may repair what was lost unnoticed."""
_WEIGHTS = {"create": 40.0, "overwrite": 45.0, "delete": 15.0}


def flushed(results: Results) -> None:
    """FLUSHALL under load, twice: no write is lost, no false conflict; what was deleted just then may come back, nothing else."""
    with _one_server("flushed") as server, _lab(results, "flushed", server.url) as the:

        def flush() -> None:
            with redis.Redis(port=server.port) as client:
                client.flushall()

        written, times = _under_load(the, [flush, flush])
        _expect(the, written, deletes_may_return=True)
        the.results.figure("flushes", len(times))


def restored(results: Results) -> None:
    """Killed and restored from a snapshot some seconds older, under load: nothing lost, no false conflict.

    An object that both sides agreed on after the snapshot has no record any more: its delete brings it back (no base, no delete).
    """
    with _one_server("restored") as server, _lab(results, "restored", server.url) as the:

        def snapshot() -> None:
            with redis.Redis(port=server.port) as client:
                client.save()

        def restore() -> None:
            server.kill()
            server.start()

        written, _ = _under_load(the, [snapshot, restore])
        _expect(the, written, deletes_may_return=True)


def failover(results: Results) -> None:
    """A master of a cluster is killed under load and its replica takes over: nothing lost, no false conflict."""
    with asyncio.Runner() as runner:
        nodes = redis_servers.cluster(_empty("failover"), replicas=1)
        servers = runner.run(nodes.__aenter__())
        try:
            with _lab(results, "failover", servers[0].url) as the:

                def kill_master() -> None:
                    victim = next(one for one in runner.run(redis_servers.masters(servers)) if one is not servers[0])
                    victim.kill()

                written, _ = _under_load(the, [kill_master])
                _expect(the, written, deletes_may_return=False)
        finally:
            runner.run(nodes.__aexit__(None, None, None))


def _empty(name: str) -> Path:
    folder = HOME / name / "redis"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@contextmanager
def _one_server(name: str) -> Iterator[Server]:
    server = Server(_empty(name))
    server.start()
    try:
        asyncio.run(server.ready())
        yield server
    finally:
        server.kill()


@contextmanager
def _lab(results: Results, name: str, url: str) -> Iterator[Lab]:
    with lab(results, name, _SETTINGS | {"FEDERATION__REDIS__URL": url}) as the:
        the.start_engine()
        results.check("starts", the.until("in step", the.settled, 90) is not None)
        yield the


def _under_load(the: Lab, troubles: list[Callable[[], None]]) -> tuple[Written, list[float]]:
    """Users write; each trouble comes some seconds after the last; then they stop."""
    chance = random.Random(20261121)
    rate = 20.0 if the.results.quick else 40.0
    crowd = Crowd(the.info, Plan(seconds=3600, rate=rate, weights=_WEIGHTS, seed=7))
    crowd.start()
    times = []
    for trouble in troubles:
        time.sleep(chance.uniform(4.0, 7.0))
        times.append(time.monotonic())
        trouble()
    time.sleep(6)
    crowd.stop()
    written = crowd.join()
    the.results.figure("changes", written.changes)
    return written, times


def _expect(the: Lab, written: Written, *, deletes_may_return: bool) -> None:
    results = the.results
    took = the.until("in step", the.settled, 180, every=1.0)
    results.check("status comes to say in step", took is not None)
    took, told = the.equal_after(60)
    results.check("equal", took is not None, told[:3])
    blob, _ = verify.names(the.sides)
    lost = [key for key, md5 in written.content.items() if md5 and (key not in blob or (blob[key][1] and blob[key][1] != md5))]
    results.check("every write is there as its writer left it", not lost, lost[:3])
    back = [key for key, md5 in written.content.items() if not md5 and key in blob]
    results.figure("deleted_and_back", len(back))
    if not deletes_may_return:
        results.check("nothing deleted is back", not back, back[:3])
    conflicts: list[Any] = [one["conflict"]["key"] for one in the.ask("conflicts", "--limit", "0")]
    results.check("no conflict: no key had two writers", not conflicts, conflicts[:3])
    checked = the.ask("state", "check")
    results.check("the records fit together", not checked["faults"], checked["faults"][:3])
    assert the.engine is not None
    results.check("the engine lived through it", the.engine.poll() is None)
