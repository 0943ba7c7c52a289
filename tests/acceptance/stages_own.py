"""A stage for any S3 server (docs/stores.md): names, sizes, edits, deletes and a conflict, both ways."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.acceptance import verify
from tests.acceptance.lab import NO_DELETE_LIMIT, Lab, Results, lab
from tests.acceptance.stages_transfer import MIB, content
from tests.acceptance.users import BlobUser, VastUser

_SCAN_EACH = {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "5", "FEDERATION__RECONCILE__QUIET_SECONDS": "0.5"}
_SIZES = {"empty": 0, "one byte": 1, "one KiB": 1024, "parts": 20 * MIB + 7}
_NAMES = (
    "a b+c",
    "100%",
    "%2F",
    "emoji \U0001f600",
    "\u00e9 nfc",
    "e\u0301 nfd",
    "a&b=c;d,e",
    "deep/" * 12 + "x",
    "tail",
    "folder/",
)
_SETTLED_SECONDS = 120.0


def own_server(results: Results) -> None:
    """Doctor, first sync, edits, metadata, renames, deletes, a conflict; then a reconcile that writes nothing."""
    with lab(results, "own_server", _SCAN_EACH | NO_DELETE_LIMIT) as the:
        blob, vast = BlobUser(the.info), VastUser(the.info)
        _doctor(the)
        for user in (blob, vast):
            for name in _NAMES:
                user.put(f"{user.side}/{name}", b"" if name.endswith("/") else name.encode(), metadata={"by": user.side})
            for name, size_bytes in _SIZES.items():
                user.put(f"{user.side}/{name}", content(name, size_bytes))
        the.start_engine()
        _equal(the, "first sync")
        _change(blob, vast)
        _equal(the, "edits, metadata, renames and deletes")
        _conflict(the, blob, vast)
        _second_look(the)
        results.check("SIGTERM ends it cleanly", the.stop_engine() == 0)
        for user in (blob, vast):
            user.close()


def _doctor(the: Lab) -> None:
    done = the.cli("doctor", "--config", str(the.config))
    print(done.stdout, flush=True)
    the.results.check("doctor finds nothing broken", done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-300:])


def _equal(the: Lab, what: str) -> None:
    took, told = the.equal_after(_SETTLED_SECONDS)
    the.results.check(f"{what}: equal byte for byte", took is not None, told[:5] or round(took or 0, 1))
    told = sorted(verify.names(the.sides)[0])
    the.results.check(f"{what}: in step", the.until("in step", the.settled, 60) is not None)
    the.results.figure(f"{what}: objects", len(told))


def _change(blob: BlobUser, vast: VastUser) -> None:
    for user, other in ((blob, "vast"), (vast, "blob")):
        user.put(f"{other}/a b+c", b"edited on the other side", metadata={"by": user.side})
        user.metadata(f"{other}/tail", {"by": user.side, "more": "1"})
        user.copy(f"{other}/one KiB", f"{user.side}/renamed")
        user.delete(f"{other}/one KiB")
        user.delete(f"{other}/100%")
        user.put(f"{user.side}/100%", b"")


def _conflict(the: Lab, blob: BlobUser, vast: VastUser) -> None:
    here, there = b"blob's", b"vast's, longer"
    blob.put("both", here)
    vast.put("both", there)
    _equal(the, "a conflict")
    listed: list[dict[str, Any]] = [one for one in the.ask("conflicts") if one["conflict"]["key"] == "both"]
    read = {"blob": verify.read_blob, "vast": verify.read_vast}
    md5s = {hashlib.md5(data, usedforsecurity=False).hexdigest() for data in (here, there)}
    current = verify.read_blob(the.sides, "both")
    kept = [read[one["conflict"]["loser_side"]](the.sides, one["conflict"]["preserved_as"]) for one in listed]
    found = {held.md5 for held in [current, *kept] if held is not None}
    # One may have come over before the other was written: then it was an edit, and nothing is lost.
    the.results.check("both versions are readable, or one replaced the other in order", not listed or found == md5s, len(listed))


def _second_look(the: Lab) -> None:
    report = the.ask("reconcile")
    the.results.figure("reconcile", report)
    the.control("/stats/reset", "POST")
    the.ask("reconcile")
    the.until("in step", the.settled, 60)
    [beat] = the.status()["processes"]
    the.results.figure("race_windows", {side: told["race_windows"] for side, told in beat["sides"].items()})
    parked = the.ask("parked")
    the.results.check("nothing is parked", not parked, parked)
    writes = the.requests(methods=("PUT", "POST", "DELETE"))
    the.results.check("a further reconcile writes nothing", writes == 0, writes)
