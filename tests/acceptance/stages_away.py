"""A side that answers wrongly as a whole: its bucket or container missing, its credentials refused, unmounted."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.acceptance import verify
from tests.acceptance.lab import Lab, Results, lab
from tests.acceptance.users import BlobUser, VastUser

_SCANS_OFTEN = {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "2", "FEDERATION__RECONCILE__QUIET_SECONDS": "0.5"}
_STAYS_SECONDS = 4.5
"""How long a trouble lasts after it was noticed: two scans more, each of which may do no harm."""


@dataclass(frozen=True)
class Trouble:
    """What the engine gets from a side, by which halt it says so, and what ``doctor`` must name."""

    name: str
    faults: dict[str, Any]
    halt: str
    told: str


_TROUBLES = (
    Trouble("404", {"error": 1.0, "status": 404}, "container_missing", "404"),
    Trouble("403", {"error": 1.0, "status": 403}, "credentials_refused", "403"),
    Trouble("unmounted", {"emptied": True}, "side_emptied_{side}", "lists no object at all"),
)


def side_away(results: Results) -> None:
    """A side answers 404, then 403, then lists nothing: named, nothing deleted on the other; all is well when it is back."""
    count = 100 if results.quick else 1_000
    with lab(results, "side_away", _SCANS_OFTEN) as the:
        users: dict[str, BlobUser | VastUser] = {"blob": BlobUser(the.info), "vast": VastUser(the.info)}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: users["vast"].put(f"still/file {number:05d}.txt", b"%d" % number), range(count)))
        the.start_engine()
        results.check("first sync", the.until("in step", the.settled, 240) is not None)
        for side in ("vast", "blob"):
            for trouble in _TROUBLES:
                _one(the, side, trouble, users)
        for user in users.values():
            user.close()


def _one(the: Lab, side: str, trouble: Trouble, users: dict[str, BlobUser | VastUser]) -> None:
    results, what = the.results, f"{side}, {trouble.name}"
    other = "blob" if side == "vast" else "vast"
    halt = trouble.halt.format(side=side)
    before = set(verify.names(the.sides)[0])
    the.control(f"/faults/{side}", "PUT", {"requests": {**trouble.faults, "client": "fedplane"}})
    said = the.until(halt, lambda: halt in _halts(the), 90, every=0.5)
    results.check(f"{what}: status says {halt}", said is not None, _halts(the))
    done = the.cli("doctor", "--config", str(the.config))
    told = [line.strip() for line in done.stdout.splitlines() if side in line and line.strip()[:4] in ("FAIL", "GONE")]
    results.check(f"{what}: doctor says so", done.returncode != 0 and told and trouble.told in done.stdout, told)
    written = f"written while {side} was {trouble.name}.txt"
    users[other].put(written, b"news")
    time.sleep(_STAYS_SECONDS)
    _nothing_deleted(the, what, before)
    if trouble.name == "unmounted":
        _deletes_wait(the, what, halt, before)
    the.control(f"/faults/{side}", "PUT", {})
    if trouble.name == "unmounted":
        the.ask("held", "reject", "--all")
    elif halt in _halts(the):
        the.cli("lift", halt, "--config", str(the.config))  # the other kind ends by itself, perhaps just now
    back = the.until("in step", lambda: the.settled() and not verify.differ_by_name(the.sides), 120, every=1.0)
    results.check(f"{what}: in step when it is back", back is not None, (the.status()["state"], _halts(the)))
    results.check(f"{what}: both sides hold all, and what was written meanwhile", not verify.differ(the.sides))
    results.check(f"{what}: nothing else", set(verify.names(the.sides)[0]) == before | {written})


def _deletes_wait(the: Lab, what: str, halt: str, before: set[str]) -> None:
    """A person takes the emptiness for true: even then the deletes wait for one more word."""
    the.ask("lift", halt)
    held = the.until("held", lambda: the.status()["held"] >= len(before), 120, every=1.0)
    the.results.check(f"{what}: after the halt was lifted the deletes are held", held is not None, the.status()["held"])
    time.sleep(_STAYS_SECONDS)
    _nothing_deleted(the, what, before)


def _nothing_deleted(the: Lab, what: str, before: set[str]) -> None:
    blob, vast = verify.names(the.sides)
    gone = before - (set(blob) & set(vast))
    the.results.check(f"{what}: nothing was deleted on either side", not gone, sorted(gone)[:3])


def _halts(the: Lab) -> list[str]:
    return [one["name"] for one in the.status()["halts"]]
