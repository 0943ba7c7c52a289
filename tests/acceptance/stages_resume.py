"""A whole scan that is killed goes on from its saved keys: seen at the proxies, which know what was listed from where."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import msgspec
import redis

from tests.acceptance.lab import ROOT, Lab, Results, lab
from tests.acceptance.users import BlobUser, VastUser

_NOTES = "fed:{demo}:notes"
_RANGE = "scan:range:"
_SLOW = {"latency_ms": 150, "client": "fedplane"}
"""So that there is a moment between two saves in which to kill."""


@dataclass
class Saved:
    """What the engine had kept when it was killed: rows compared, and the key of each range to go on from."""

    rows: int = 0
    keys: set[str] = field(default_factory=set)
    after: set[str] = field(default_factory=set)
    """Where the ranges begin: one that was not begun yet is listed from there."""


def scan_resumed(results: Results) -> None:
    """A whole scan, as one range and then in several, is killed after a save: it goes on from there, and misses no key."""
    keys, kills = (3_600, 1) if results.quick else (20_000, 4)
    settings = {
        "FEDERATION__RECONCILE__RANGE_ROWS": str(keys // 3),
        "FEDERATION__RECONCILE__QUIET_SECONDS": "0",
    }
    with lab(results, "scan_resumed", settings) as the:
        _fill(the, keys)
        first = _killed_and_finished(the, "one range", kills, keys)
        known = the.status()
        results.check(
            "one range: every key was found", known["dirty"] + known["objects"] == keys, (known["dirty"], known["objects"])
        )
        ranges = _killed_and_finished(the, "ranges", kills, keys)
        the.control("/stats/reset", "POST")
        the.ask("reconcile", "--wait", "0")
        whole = _listed_bytes(the, "vast")
        results.figure("bytes_listed_without_a_kill", whole)
        # The first process of all reads the listing twice: whether names are keys, in order, has to be seen once.
        results.check("one range: listed less than once more", first < 3 * whole, round(first / whole, 2))
        results.check("ranges: listed less than twice in all", ranges < 2 * whole, round(ranges / whole, 2))


def _fill(the: Lab, count: int) -> None:
    """The same objects on both sides, of which the engine knows nothing."""
    users: list[BlobUser | VastUser] = [BlobUser(the.info, direct=True), VastUser(the.info, direct=True)]

    def put(number: int) -> None:
        for user in users:
            user.put(f"still/dir{number // 100:03d}/file {number:06d}.txt", f"{number}".encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(count)))
    for user in users:
        user.close()


def _killed_and_finished(the: Lab, what: str, kills: int, keys: int) -> int:
    """Bytes of the VAST side's listing that all its processes together were sent."""
    results, bytes_listed, saved = the.results, 0, Saved()
    for number in range(kills + 1):
        before = saved
        the.control("/stats/reset", "POST")
        if number < kills:
            saved = _run_and_kill(the, before)
            results.check(f"{what}, kill {number + 1}: in the middle of the scan", before.rows < saved.rows < keys, saved.rows)
        else:
            _finish(the, what, kills, keys)
        bytes_listed += _listed_bytes(the, "vast")
        if number:
            for side in ("blob", "vast"):
                starts = _starts(the, side)
                results.check(
                    f"{what}, after kill {number}, {side}: from saved keys", starts <= before.keys | before.after, starts
                )
                results.check(
                    f"{what}, after kill {number}, {side}: one of them", starts & before.keys or before.keys <= before.after
                )
    return bytes_listed


def _run_and_kill(the: Lab, before: Saved) -> Saved:
    for side in ("blob", "vast"):
        the.control(f"/faults/{side}", "PUT", {"requests": _SLOW})
    command = [sys.executable, "-m", "fedplane.cli", "reconcile", "--wait", "0", "--config", str(the.config)]
    with (the.home / "scan.log").open("ab") as out:
        process = subprocess.Popen(command, env=the.environment, stdout=out, stderr=out, cwd=ROOT)
    the.until("saved more", lambda: process.poll() is not None or _saved(the).rows > before.rows, 120, every=0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    for side in ("blob", "vast"):
        the.control(f"/faults/{side}", "PUT", {})
    return _saved(the)


def _finish(the: Lab, what: str, kills: int, keys: int) -> None:
    report = the.ask("reconcile", "--wait", "0")["report"]
    rows = report["in_step"] + sum(report["drift"].values())
    results = the.results
    results.check(f"{what}: the last process ends the scan", report["complete"] and rows == keys, (rows, report["error"]))
    results.check(f"{what}: it was taken up again", report["resumed"] >= kills, report["resumed"])
    results.figure(f"{what}: ranges, taken up again", (report["ranges"], report["resumed"]))


def _saved(the: Lab) -> Saved:
    with redis.Redis.from_url(the.info["redis_url"]) as client:
        notes: Any = client.hgetall(_NOTES)
    found = Saved()
    for name, packed in notes.items():
        if name.decode().startswith(_RANGE):
            kept = msgspec.msgpack.decode(packed)
            report = kept["report"]
            found.rows += report["in_step"] + sum(report["drift"].values())
            if not report["complete"]:
                found.keys.add(report["resume"])
    plan = msgspec.json.decode(notes[b"scan:plan"]) if b"scan:plan" in notes else {}
    found.after = set(plan.get("bounds", ()))
    return found


def _starts(the: Lab, side: str) -> set[str]:
    """After which keys the engine listed users' objects; the one page from the first key tells whether a side was emptied."""
    wanted, starts, first = {"blob": "startFrom", "vast": "start-after"}[side], set(), 0
    for page in the.control(f"/listings/{side}"):
        query = parse_qs(page["query"])
        if page["client"] != "fedplane" or query.get("prefix"):
            continue
        start = query.get(wanted, [""])[0]
        first += not start
        starts.add(start)
    the.results.check(f"{side}: at most one page from the first key", first <= 1, first)
    return starts - {""}


def _listed_bytes(the: Lab, side: str) -> int:
    rows = the.control("/stats")[side]["bytes"]
    return sum(row["bytes"] for row in rows if (row["client"], row["operation"], row["of"]) == ("fedplane", "list", "answer"))
