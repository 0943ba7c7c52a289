"""A whole scan that is killed goes on from its saved keys: seen at the proxies, which know what was listed from where."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import msgspec
import redis

from tests.acceptance.lab import ROOT, Lab, Results, lab
from tests.acceptance.users import BlobUser, VastUser

_NOTES = "fed:{demo}:notes"
_PLAN, _RANGE = b"scan:plan", "scan:range:"


@dataclass
class Saved:
    """What the engine had kept when it was killed: rows compared, and where each range that is not done has to go on."""

    rows: int = 0
    keys: set[str] = field(default_factory=set)
    """Saved keys of the ranges under way."""
    untouched: set[str] = field(default_factory=set)
    """After which keys the ranges begin of which nothing is saved; empty: the first key."""
    bounds: set[str] = field(default_factory=set)
    """Where one range ends and the next begins: the former looks there once, whether the listing goes on as it should."""


def scan_resumed(results: Results) -> None:
    """A whole scan, as one range and then in several, is killed after a save: it goes on from there, and misses no key."""
    # Four pages a range: it is saved first when its second page is there, and one more may slip through before that is seen.
    keys, ranges, kills = (7_000, 2, 1) if results.quick else (20_000, 3, 4)
    settings = {
        "FEDERATION__RECONCILE__RANGE_ROWS": str(keys // ranges),
        "FEDERATION__RECONCILE__QUIET_SECONDS": "0",
    }
    with lab(results, "scan_resumed", settings) as the:
        _fill(the, keys)
        first = _killed_and_finished(the, "one range", kills, keys)
        known = the.status()
        results.check(
            "one range: every key was found", known["dirty"] + known["objects"] == keys, (known["dirty"], known["objects"])
        )
        parted = _killed_and_finished(the, "ranges", kills, keys)
        the.control("/stats/reset", "POST")
        the.ask("reconcile", "--wait", "0")
        whole = _listed_bytes(the, "vast")
        results.figure("bytes_listed_without_a_kill", whole)
        # The first process of all reads the listing twice: whether names are keys, in order, has to be seen once.
        results.check("one range: listed less than once more", first < 3 * whole, round(first / whole, 2))
        results.check("ranges: listed less than twice in all", parted < 2 * whole, round(parted / whole, 2))


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
    results, bytes_listed, saved = the.results, 0, Saved(untouched={""})
    for number in range(kills + 1):
        before = saved
        the.control("/stats/reset", "POST")
        if number < kills:
            saved = _run_and_kill(the, before)
            under_way = before.rows < saved.rows < keys and saved.keys
            results.check(f"{what}, kill {number + 1}: a range was under way, past its first page", under_way, saved.rows)
        else:
            _finish(the, what, keys, saved)
        bytes_listed += _listed_bytes(the, "vast")
        for side in ("blob", "vast") if number else ():
            _check_starts(the, f"{what}, after kill {number}, {side}", side, before, last=number == kills)
    return bytes_listed


def _run_and_kill(the: Lab, before: Saved) -> Saved:
    """Let VAST's list pages through one at a time until more is saved, of a range that is not done; then kill."""
    _let_through(the, 0)
    command = [sys.executable, "-m", "fedplane.cli", "reconcile", "--wait", "0", "--config", str(the.config)]
    with (the.home / "scan.log").open("ab") as out:
        process = subprocess.Popen(command, env=the.environment, stdout=out, stderr=out, cwd=ROOT)

    def saved_more() -> bool:
        saved = _saved(the)
        if process.poll() is not None or (saved.rows > before.rows and saved.keys):
            return True
        if the.control("/stats")["vast"]["held_pages"]:
            _let_through(the, 1)
        return False

    the.until("saved more", saved_more, 120, every=0.1)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    the.control("/faults/vast", "PUT", {})
    return _saved(the)


def _let_through(the: Lab, pages: int) -> None:
    the.control("/faults/vast", "PUT", {"requests": {"list_pages": pages, "client": "fedplane"}})


def _finish(the: Lab, what: str, keys: int, saved: Saved) -> None:
    report = the.ask("reconcile", "--wait", "0")["report"]
    rows = report["in_step"] + sum(report["drift"].values())
    results = the.results
    results.check(f"{what}: the last process ends the scan", report["complete"] and rows == keys, (rows, report["error"]))
    results.check(f"{what}: every range under way was taken up again", report["resumed"] >= len(saved.keys), report["resumed"])
    results.figure(f"{what}: ranges, taken up again", (report["ranges"], report["resumed"]))


def _saved(the: Lab) -> Saved:
    with redis.Redis.from_url(the.info["redis_url"]) as client:
        notes: Any = client.hgetall(_NOTES)
    plan = msgspec.json.decode(notes[_PLAN]) if notes.get(_PLAN) else {"scan": "", "bounds": ()}
    found = Saved(bounds=set(plan["bounds"]))
    for number, after in enumerate(["", *plan["bounds"]]):
        packed = notes.get(f"{_RANGE}{number}".encode())
        kept: dict[str, Any] = msgspec.msgpack.decode(packed) if packed else {}
        if kept.get("scan") != plan["scan"]:
            found.untouched.add(after)
            continue
        report = kept["report"]
        found.rows += report["in_step"] + sum(report["drift"].values())
        if not report["complete"]:
            found.keys.add(report["resume"])
    return found


def _check_starts(the: Lab, what: str, side: str, before: Saved, *, last: bool) -> None:
    """What was listed since the kill, as the proxy saw it: a saved range from its saved key, others from where they begin."""
    starts = _starts(the, side)
    first = starts.pop("", 0)
    expected = before.keys | before.untouched - {""}
    # One page from the first key tells whether a side was emptied.
    the.results.check(f"{what}: no range again from the first key", first <= 1 + ("" in before.untouched), first)
    most = Counter(expected) + Counter(before.bounds)
    fits = starts <= most and (not last or starts.keys() >= expected)
    the.results.check(f"{what}: from the saved keys", fits, dict(starts))


def _starts(the: Lab, side: str) -> Counter[str]:
    """How many listings of users' objects the engine began after which keys."""
    wanted, more = {"blob": ("startFrom", "marker"), "vast": ("start-after", "continuation-token")}[side]
    starts: Counter[str] = Counter()
    for page in the.control(f"/listings/{side}"):
        query = parse_qs(page["query"])
        if page["client"] == "fedplane" and not query.get("prefix") and more not in query:
            starts[query.get(wanted, [""])[0]] += 1
    return starts


def _listed_bytes(the: Lab, side: str) -> int:
    rows = the.control("/stats")[side]["bytes"]
    return sum(row["bytes"] for row in rows if (row["client"], row["operation"], row["of"]) == ("fedplane", "list", "answer"))
