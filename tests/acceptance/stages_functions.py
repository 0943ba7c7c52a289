"""Stages in which the functions app does it all: four instances in real workers of its runtime, and no ``fedplane run``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.acceptance import verify
from tests.acceptance.lab import NO_DELETE_LIMIT, ROOT, Lab, Results
from tests.acceptance.stages_live import EQUAL_SECONDS, decisions, percentiles
from tests.acceptance.users import LIVE, Crowd, Plan, Written

INSTANCES = 4
MINUTE_SECONDS = 10.0
"""Of the timers: what the sweep and the scans do each minute they do each ten seconds, so that a stage need not last an hour.

Each stage's figures say so; ``functions_real_minute`` runs with the real one.
"""

WITH_EVENTS = {kind: weight for kind, weight in LIVE.items() if kind != "metadata"}
"""What comes over without a scan: a change of a blob's metadata alone has no event of Event Grid."""


class FunctionsLab(Lab):
    """A lab whose engine is the functions app under ``tests.functions_host``."""

    def __init__(
        self,
        results: Results,
        name: str,
        settings: dict[str, str],
        *,
        kill_every: float = 0.0,
        minute_seconds: float = MINUTE_SECONDS,
    ) -> None:
        super().__init__(results, name, settings)
        self._kill_every = kill_every
        self._minute_seconds = minute_seconds
        results.figure("minute_of_the_timers_seconds", minute_seconds)
        self._host = self.home / "host"
        self.environment |= {
            "AzureWebJobsStorage": self.servers.environment["FEDPLANE_STACK_BLOB"],
            "FEDERATION_CONFIG": str(self.config),
        }
        for old in self._host.glob("*") if self._host.exists() else ():
            old.unlink()

    def start_engine(self) -> None:
        """Start the host with its instances, and wait until they have indexed the app."""
        command = [sys.executable, "-m", "tests.functions_host.main", "--home", str(self._host)]
        command += ["--instances", str(INSTANCES), "--minute", str(self._minute_seconds), "--kill-every", str(self._kill_every)]
        with (self.home / "engine.log").open("ab") as out:
            self.engine = subprocess.Popen(command, env=self._quiet(), stdout=out, stderr=out, cwd=ROOT)
        self.results.check("the workers index the app", self.until("ready", (self._host / "ready").exists, 60) is not None)

    @property
    def told(self) -> dict[str, Any]:
        """What the host saw, once it has ended."""
        return dict(json.loads((self._host / "host.json").read_text()))

    def decisions(self) -> list[dict[str, Any]]:
        """Of all instances."""
        return [line for log in sorted(self._host.glob("instance-*.jsonl")) for line in decisions(log)]


@contextmanager
def functions(
    results: Results, name: str, settings: dict[str, str], *, kill_every: float = 0.0, minute_seconds: float = MINUTE_SECONDS
) -> Iterator[FunctionsLab]:
    """A lab that is cleaned up whatever happens."""
    made = FunctionsLab(results, name, settings | NO_DELETE_LIMIT, kill_every=kill_every, minute_seconds=minute_seconds)
    try:
        yield made
    finally:
        made.close()


def functions_live(results: Results) -> None:
    """The live scenario on four instances: create, overwrite, delete, rename, metadata only, and collisions on shared keys."""
    seconds, rate = (20.0, 30.0) if results.quick else (120.0, 40.0)
    with functions(results, "functions_live", {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "10"}) as the:
        the.start_engine()
        results.check("starts", the.until("in step", the.settled, 90) is not None)
        the.control("/stats/reset", "POST")
        written = _write(the, Plan(seconds=seconds, rate=rate, weights=LIVE))
        took, told = the.equal_after(EQUAL_SECONDS + MINUTE_SECONDS)
        results.check("equal within 25 s after the last write", took is not None, told[:3] or took)
        results.figure("equal_after_seconds", round(took, 1) if took is not None else None)
        _tell(the, results, written)


def functions_real_minute(results: Results) -> None:
    """Live changes while the timers keep their real minutes and the topic's reader is ended and begun again every 20 s."""
    seconds, rate = (40.0, 20.0) if results.quick else (120.0, 40.0)
    settings = {"FEDERATION__FUNCTIONS__READING_SECONDS": "20", "FEDERATION__RECONCILE__INTERVAL_SECONDS": "86400"}
    with functions(results, "functions_real_minute", settings, minute_seconds=60.0) as the:
        the.start_engine()
        results.check("starts", the.until("a whole scan", lambda: the.status()["last_whole_scan"], 180) is not None)
        written = _write(the, Plan(seconds=seconds, rate=rate, weights=WITH_EVENTS, seed=4))
        took, told = the.equal_after(90)
        results.check("equal within 90 s after the last write, without a scan", took is not None, told[:3] or took)
        results.figure("equal_after_seconds", round(took, 1) if took is not None else None)
        _tell(the, results, written)


def functions_lost_events(results: Results) -> None:
    """30 % of events lost, 20 % doubled, order shuffled: the functions' own scans make up for it."""
    seconds, rate = (12.0, 30.0) if results.quick else (60.0, 40.0)
    settings = {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "20", "FEDERATION__PAIR__DEMO__VAST__EVENTS__CANARY_SECONDS": "0"}
    with functions(results, "functions_lost_events", settings) as the:
        knobs = {"events": {"drop": 0.3, "duplicate": 0.2, "reorder": 8, "delay_seconds": [0.0, 1.0], "seed": 7}}
        for side in ("blob", "vast"):
            the.control(f"/faults/{side}", "PUT", knobs)
        the.start_engine()
        results.check("starts", the.until("in step", the.settled, 90) is not None)
        written = _write(the, Plan(seconds=seconds, rate=rate, weights=LIVE, seed=2))
        took, told = the.equal_after(60)
        results.check("events were lost", the.events("dropped") > 0, the.events("dropped"))
        results.check("equal within 60 s after the last write, by scans", took is not None, told[:3] or took)
        _tell(the, results, written)


def functions_killed(results: Results) -> None:
    """A worker is killed every three seconds while users write: nothing is lost, nothing is done twice to the users' harm."""
    seconds, rate = (15.0, 20.0) if results.quick else (60.0, 30.0)
    with functions(results, "functions_killed", {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "86400"}, kill_every=3.0) as the:
        the.start_engine()
        results.check("starts", the.until("a whole scan", lambda: the.status()["last_whole_scan"], 90) is not None)
        written = _write(the, Plan(seconds=seconds, rate=rate, weights=WITH_EVENTS, seed=3))
        took, told = the.equal_after(120)
        results.check("equal within 120 s after the last write, killed all the while, without a scan", took is not None, told[:3])
        results.figure("equal_after_seconds", round(took, 1) if took is not None else None)
        _tell(the, results, written)
        results.check("workers were killed", the.told["killed"] >= seconds / 6, the.told["killed"])


def _write(the: FunctionsLab, plan: Plan) -> Written:
    crowd = Crowd(the.info, plan)
    crowd.start()
    return crowd.join()


def _tell(the: FunctionsLab, results: Results, written: Written) -> None:
    time.sleep(1)
    results.check("nothing is left to do", the.until("no dirty key", lambda: the.status()["dirty"] == 0, 60) is not None)
    results.check("equal still", not verify.differ(the.sides))
    results.check("the host ends", the.stop_engine() == 0)
    lines = the.decisions()
    results.check("every decision carries the id of its invocation", lines and all(line["invocation"] for line in lines))
    by_event = [line for line in lines if line["apply_delay_seconds"] is not None and line["heard_from"] != "reconciler"]
    results.figure("changes", dict(written.by_kind) | {"all": written.changes})
    results.figure("changes_per_second", round(written.changes / written.seconds, 1))
    results.figure("change_to_applied_seconds", percentiles([line["apply_delay_seconds"] for line in by_event]))
    for side in ("blob", "vast"):
        delays = [line["apply_delay_seconds"] for line in by_event if line["source"] == side]
        results.figure(f"change_to_applied_seconds_from_{side}", percentiles(delays))
    told = the.told
    results.figure("invocations", told["ended"])
    results.figure("invocations_failed", {"failed": told["failed"], "worker_killed": told["gone"], "faults": told["faults"]})
    if not told["killed"]:
        results.check("no invocation failed", not told["failed"], told["faults"])
