"""Stages about kills and servers that go away, under load."""

from __future__ import annotations

import random
import time
from typing import Any

from tests.acceptance import verify
from tests.acceptance.lab import NO_DELETE_LIMIT, Lab, Results, lab
from tests.acceptance.users import DISJOINT, Crowd, Plan, Written

_SCANS = {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "86400"}
"""Only the scan on start: no later one may repair what the engine itself lost."""


def killed(results: Results) -> None:
    """``fedplane run`` gets SIGKILL at random moments under load and restarts: equal, nothing lost, no false conflict."""
    kills, rate = (4, 30.0) if results.quick else (10, 50.0)
    chance = random.Random(20261121)
    with lab(results, "killed", _SCANS | NO_DELETE_LIMIT) as the:
        the.start_engine()
        results.check("starts", the.until("in step", the.settled, 60) is not None)
        crowd = Crowd(the.info, Plan(seconds=3600, rate=rate, weights=DISJOINT, seed=3, largest_bytes=200_000))
        crowd.start()
        for _ in range(kills):
            time.sleep(chance.uniform(1.0, 5.0))
            the.kill_engine()
            the.start_engine()
        time.sleep(3)
        crowd.stop()
        written = crowd.join()
        results.figure("kills", kills)
        results.figure("changes", written.changes)
        expect_all(the, written)


_HIDDEN_SECONDS = 60
"""A queue shows the messages that a killed reader had taken to others after this; until then nobody can know of them."""


def expect_all(the: Lab, written: Written, seconds: float = 120) -> None:
    """Equal, every key as its only writer left it, and no conflict, since no key had two writers."""
    took = the.until("in step", the.settled, seconds, every=1.0)
    the.results.check("status comes to say in step", took is not None)
    took, told = the.equal_after(_HIDDEN_SECONDS + 30)
    the.results.check("equal", took is not None, told[:3])
    blob, _ = verify.names(the.sides)
    wrong = _not_as_written(written.content, blob)
    the.results.check("every key is as its writer left it", not wrong, wrong[:3])
    conflicts = [one["conflict"]["key"] for one in the.ask("conflicts", "--limit", "0")]
    the.results.check("no conflict copy: no key had two writers", not conflicts, conflicts[:3])
    status = the.status()
    the.results.check("nothing parked or held", not status["parked"] and not status["held"], (status["parked"], status["held"]))


def _not_as_written(content: dict[str, str], blob: dict[str, tuple[int, str]]) -> list[str]:
    wrong = []
    for key, md5 in content.items():
        if md5.startswith("as "):
            if key not in blob:
                wrong.append(f"{key}: renamed to, and gone")
        elif not md5:
            if key in blob:
                wrong.append(f"{key}: deleted, and there")
        elif key not in blob:
            wrong.append(f"{key}: written, and gone")
        elif blob[key][1] and blob[key][1] != md5:
            wrong.append(f"{key}: other content")
    return wrong


def servers_away(results: Results) -> None:
    """Redis is stopped and started, Azurite answers 503 for 20 s: nothing is lost, and status is honest meanwhile."""
    away = 8.0 if results.quick else 20.0
    with lab(results, "servers_away", _SCANS | NO_DELETE_LIMIT) as the:
        the.start_engine()
        results.check("starts", the.until("in step", the.settled, 60) is not None)
        crowd = Crowd(the.info, Plan(seconds=3600, rate=25.0, weights=DISJOINT, seed=4))
        crowd.start()
        time.sleep(3)
        the.servers.stop_server("redis")
        said = the.cli("status", "--json", "--config", str(the.config))
        honest = said.returncode == 3 and "Redis" in said.stderr
        results.check("with Redis away status ends with 3 and says so", honest, said.stderr[:160])
        results.check("and claims nothing", not said.stdout.strip())
        time.sleep(5)
        the.servers.start_server("redis")
        the.until("status again", lambda: the.cli("status", "--config", str(the.config)).returncode == 0, 30)
        time.sleep(3)
        knobs = {"error": 1.0, "status": 503, "retry_after_seconds": 2, "for_seconds": away}
        the.control("/faults/blob", "PUT", {"requests": knobs})
        said_so, lies = _watch(the, away)
        results.check("with the Blob side answering 503, status says that it does not answer", said_so)
        results.check("and never says in step meanwhile", not lies, lies[:2])
        time.sleep(3)
        crowd.stop()
        written = crowd.join()
        results.figure("changes", written.changes)
        results.figure("user_requests_repeated", written.repeated)
        expect_all(the, written)


def _watch(the: Lab, away: float) -> tuple[bool, list[Any]]:
    """Poll status while the side is away. A claim counts as a lie once the engine had time to notice."""
    said_so, lies = False, []
    started = time.monotonic()
    while time.monotonic() - started < away - 1:
        status = the.status()
        unknown = [why for one in status["directions"].values() for why in one["unknown_because"]]
        said_so = said_so or any("blob side does not answer" in why for why in unknown)
        if time.monotonic() - started > 4 and status["state"] == "in_step":
            lies.append(status["directions"])
        time.sleep(0.3)
    return said_so, lies
