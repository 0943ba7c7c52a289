"""Stages about scans and crashes: many kills of two engines and a scan under load, and mass deletes that wait for a person."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.acceptance import verify
from tests.acceptance.lab import NO_DELETE_LIMIT, ROOT, Lab, Results, lab
from tests.acceptance.stages_faults import expect_all
from tests.acceptance.users import DISJOINT, BlobUser, Crowd, Plan, VastUser

_BUSY_SCANS = {
    "FEDERATION__RECONCILE__INTERVAL_SECONDS": "4",
    "FEDERATION__RECONCILE__QUIET_SECONDS": "1",
    "FEDERATION__RECONCILE__RANGE_ROWS": "1000",
}
_SCANS_OFTEN = {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "2", "FEDERATION__RECONCILE__QUIET_SECONDS": "0.5"}
_COMMANDS = {
    "engine one": ("run",),
    "engine two": ("run",),
    "scan": ("reconcile", "--wait", "5"),
}


class Crew:
    """Two engines and a scan as processes, each killed and started again by itself."""

    def __init__(self, the: Lab) -> None:
        self._lab = the
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kills: Counter[str] = Counter()
        self.endings: Counter[tuple[str, ...]] = Counter()
        """Of those that ended by themselves: name, exit status, and what they said last."""

    def start(self, name: str) -> None:
        """Start it, or start it again."""
        words = [*_COMMANDS[name], "--config", str(self._lab.config)]
        with self._log(name).open("ab") as out:
            command = [sys.executable, "-m", "fedplane.cli", *words]
            self._processes[name] = subprocess.Popen(command, env=self._lab.environment, stdout=out, stderr=out, cwd=ROOT)

    def _log(self, name: str) -> Path:
        return self._lab.home / f"{name}.log"

    def kill(self, name: str) -> None:
        """SIGKILL; one that ended by itself is only started again, and its ending noted."""
        process = self._processes[name]
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            self.kills[name] += 1
        else:
            said = self._log(name).read_text(errors="replace").splitlines()[-1:]
            self.endings[f"{name}: {process.returncode}", *said] += 1
        process.wait(30)

    def stop(self) -> None:
        """End all of them, in order."""
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self._processes.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def scan_killed(results: Results) -> None:
    """SIGKILL at random moments to two engines and a scan under live load: nothing lost, nothing came back, no false conflict."""
    kills, rate = (20, 15.0) if results.quick else (200, 20.0)
    chance = random.Random(20261122)
    with lab(results, "scan_killed", _BUSY_SCANS | NO_DELETE_LIMIT) as the:
        _fill(the, 2_200 if results.quick else 5_000)
        crew = Crew(the)
        for name in _COMMANDS:
            crew.start(name)
        results.check("starts", the.until("in step", the.settled, 300, every=1.0) is not None)
        crowd = Crowd(the.info, Plan(seconds=36_000, rate=rate, weights=DISJOINT, seed=5, largest_bytes=50_000))
        crowd.start()
        try:
            while crew.kills.total() < kills:
                time.sleep(chance.uniform(0.3, 3.0))
                victim = chance.choice(list(_COMMANDS))
                crew.kill(victim)
                crew.start(victim)
            time.sleep(3)
        finally:
            crowd.stop()
        written = crowd.join()
        results.figure("kills", dict(crew.kills))
        results.figure("changes", written.changes)
        ended = {ending: count for ending, count in crew.endings.items() if not ending[0].endswith((": 0", ": 1"))}
        results.check("no process ended by a fault of its own", not ended, ended)
        expect_all(the, written, seconds=300)
        scans = the.ask("reconcile", "--history")["scans"]
        results.figure("scans_kept", len(scans))
        results.figure("ranges_taken_up_again", sum(one["resumed"] for one in scans))
        crew.stop()


def _fill(the: Lab, count: int) -> None:
    """Objects that nobody touches afterwards, so that scans have something to walk."""
    user = VastUser(the.info, direct=True)

    def put(number: int) -> None:
        user.put(f"still/dir{number // 100:03d}/file {number:05d}.txt", f"{number}".encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(count)))
    user.close()


def mass_delete(results: Results) -> None:
    """60 % of one side deleted, and the side listed as empty: nothing is deleted on the other before a person says so."""
    count = 200 if results.quick else 1_000
    cases = [(side, share) for side in ("vast", "blob") for share in (60, 100)]
    for side, share in (cases[0], cases[-1]) if results.quick else cases:
        with lab(results, f"mass_delete_{side}_{share}", _SCANS_OFTEN) as the:
            _lose(the, side, count, share, f"{share} %")


def _lose(the: Lab, side: str, count: int, share: int, name: str) -> None:
    results = the.results
    _fill(the, count)
    the.start_engine()
    results.check(f"{side}, {name}: first sync", the.until("in step", the.settled, 240) is not None)
    keys = sorted(verify.names(the.sides)[0])
    lost = keys[: count * share // 100]
    losing: BlobUser | VastUser = VastUser(the.info, direct=True) if side == "vast" else BlobUser(the.info, direct=True)
    the.stop_engine()  # a mass delete that a scan meets as a whole; what trickles in is bounded by the delete budget
    for key in lost:
        losing.delete(key)
    losing.close()
    the.start_engine()
    waits = the.until("it waits for a person", lambda: _waits(the, len(lost)), 90, every=1.0)
    results.check(f"{side}, {name}: the deletes wait for a person", waits is not None, the.status()["held"])
    time.sleep(6)  # three more scans
    held_back = _other(the, side)
    results.check(f"{side}, {name}: nothing was deleted on the other side", set(keys) <= held_back, len(set(keys) - held_back))
    for halt in [one["name"] for one in the.status()["halts"]]:
        the.ask("lift", halt)
        the.until("held now", lambda: _waits(the, len(lost)), 90, every=1.0)
        results.check(f"{side}, {name}: after the halt was lifted they are held", set(keys) <= _other(the, side))
    the.until("all held", lambda: the.status()["held"] == len(lost), 90, every=1.0)
    the.ask("held", "reject", "--all")
    restored = the.until("restored", lambda: the.settled() and not verify.differ_by_name(the.sides), 180, every=1.0)
    results.check(f"{side}, {name}: rejecting restores all", restored is not None and not verify.differ(the.sides))
    results.check(f"{side}, {name}: and nothing is missing", sorted(verify.names(the.sides)[0]) == keys)


def _waits(the: Lab, lost: int) -> bool:
    status: dict[str, Any] = the.status()
    return bool(status["halts"]) or status["held"] >= lost


def _other(the: Lab, side: str) -> set[str]:
    blob, vast = verify.names(the.sides)
    return set(blob if side == "vast" else vast)
