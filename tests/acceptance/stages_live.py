"""Stages about changes that arrive while users write on both sides, with all events and with a third of them lost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tests.acceptance import verify
from tests.acceptance.lab import NO_DELETE_LIMIT, Lab, Results, lab
from tests.acceptance.users import LIVE, Crowd, Plan, Written

EQUAL_SECONDS = 15.0
_SCAN_EACH = {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "4"}
"""Event Grid has no event for a metadata-only change of a blob: the scan finds those."""


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in seconds."""
    if not values:
        return {}
    ranked = sorted(values)
    return {f"p{share}": round(ranked[min(len(ranked) - 1, len(ranked) * share // 100)], 3) for share in (50, 95, 99)}


def decisions(log: Path) -> list[dict[str, Any]]:
    """The decision lines of an engine's log."""
    return [line for line in map(json.loads, log.read_text().splitlines()) if line.get("event") == "decision"]


def live(results: Results) -> None:
    """Several writers a side: create, overwrite, delete, rename, metadata only, and collisions on shared keys."""
    seconds, rate = (20.0, 40.0) if results.quick else (120.0, 126.0 if results.full else 64.0)
    with lab(results, "live", _SCAN_EACH | NO_DELETE_LIMIT) as the:
        the.start_engine()
        results.check("starts", the.until("in step", the.settled, 60) is not None)
        the.control("/stats/reset", "POST")
        cpu = the.cpu_seconds()
        crowd = Crowd(the.info, Plan(seconds=seconds, rate=rate, weights=LIVE))
        crowd.start()
        written = crowd.join()
        took, told = the.equal_after(EQUAL_SECONDS)
        results.check(f"equal within {EQUAL_SECONDS:.0f} s after the last write", took is not None, told[:3] or took)
        results.figure("equal_after_seconds", round(took, 1) if took is not None else None)
        _tell(the, results, written, cpu)
        wanted = rate * 0.93
        results.check(f"at {wanted:.0f} changes/s or more", written.changes / written.seconds >= wanted)
        results.check("SIGTERM ends it cleanly", the.stop_engine() == 0)


def events_alone(results: Results) -> None:
    """The same without any scan after the first: events alone bring all changes over that have events."""
    seconds = 15.0 if results.quick else 60.0
    settings = {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "86400"} | NO_DELETE_LIMIT
    weights = {kind: weight for kind, weight in LIVE.items() if kind != "metadata"}
    with lab(results, "events_alone", settings) as the:
        the.start_engine()
        results.check("starts", the.until("in step", the.settled, 60) is not None)
        crowd = Crowd(the.info, Plan(seconds=seconds, rate=40.0, weights=weights, seed=5))
        crowd.start()
        written = crowd.join()
        took, told = the.equal_after(EQUAL_SECONDS)
        results.figure("changes", written.changes)
        results.check(f"equal within {EQUAL_SECONDS:.0f} s after the last write", took is not None, told[:3] or took)
        idle = [
            line
            for line in decisions(the.log)
            if line["action"] == "nothing" and line["requests"] and "reconciler" not in line["heard_from"]
        ]
        results.figure("looks_that_found_nothing", len(idle))
        results.check("fewer than 2 % of our own writes' events cost a look", len(idle) < 0.02 * the.events("echoes"), len(idle))


def _tell(the: Lab, results: Results, written: Written, cpu_before: float) -> None:
    lines = decisions(the.log)
    results.figure("changes", dict(written.by_kind) | {"all": written.changes})
    results.figure("changes_per_second", round(written.changes / written.seconds, 1))
    delays = [line["apply_delay_seconds"] for line in lines if line["apply_delay_seconds"] is not None]
    announced = [
        line["apply_delay_seconds"]
        for line in lines
        if line["apply_delay_seconds"] is not None and line["heard_from"] != "reconciler"
    ]
    results.figure("change_to_applied_seconds", percentiles(delays))
    results.figure("change_to_applied_seconds_announced_by_events", percentiles(announced))
    results.figure("engine_requests_per_change", round(the.requests() / written.changes, 3))
    results.figure("engine_cpu_ms_per_change", round(1000 * (the.cpu_seconds() - cpu_before) / written.changes, 2))
    results.figure("engine_rss_mib", round(the.rss_bytes() / 2**20, 1))
    beat = the.status()["processes"][0]
    dropped = sum(source.get("echoes", 0) for source in beat["sources"].values())
    results.figure("echoes", {"dropped_at_the_mark": dropped, "settled_without_request": beat["worker"]["echoes"]})
    results.figure("events", {what: the.events(what) for what in ("emitted", "echoes", "dropped", "duplicated")})
    results.check(
        "echoes cause 0 storage requests", beat["worker"]["echo_requests"] == 0 and dropped > 0, beat["worker"]["echo_requests"]
    )


def lost_events(results: Results) -> None:
    """30 % of events lost, 20 % doubled, order shuffled: equal after one reconcile, which says how many keys were missed."""
    seconds, rate = (12.0, 40.0) if results.quick else (120.0, 64.0)
    settings = {"FEDERATION__RECONCILE__INTERVAL_SECONDS": "86400"} | NO_DELETE_LIMIT
    settings["FEDERATION__PAIR__DEMO__VAST__EVENTS__CANARY_SECONDS"] = "0"  # its event may be lost too, and status says so
    with lab(results, "lost_events", settings) as the:
        knobs = {"events": {"drop": 0.3, "duplicate": 0.2, "reorder": 8, "delay_seconds": [0.0, 1.0], "seed": 7}}
        for side in ("blob", "vast"):
            the.control(f"/faults/{side}", "PUT", knobs)
        the.start_engine()
        results.check("starts", the.until("in step", the.settled, 60) is not None)
        crowd = Crowd(the.info, Plan(seconds=seconds, rate=rate, weights=LIVE, seed=2))
        crowd.start()
        written = crowd.join()
        the.until("the events that came are worked off", lambda: the.status()["dirty"] == 0, 60)
        time.sleep(2)  # so that no difference is too recent to say whether its event was lost
        behind = verify.differ_by_name(the.sides)
        results.figure("changes", written.changes)
        results.figure("events", {what: the.events(what) for what in ("emitted", "dropped", "duplicated")})
        results.figure("keys_unequal_before_the_reconcile", len(behind))
        results.check("events were lost, and differences stayed", the.events("dropped") > 0 and behind, len(behind))
        report = the.ask("reconcile")
        told = verify.differ(the.sides)
        results.check("equal after one reconcile", not told, told[:3])
        missed = sum(report["report"]["missed_by_events"].values())
        results.check("the report says how many keys the events had missed", missed > 0, missed)
        results.figure("keys_missed_by_events", report["report"]["missed_by_events"])
        results.figure("reconcile_seconds", (report["report"]["finished_us"] - report["report"]["started_us"]) / 1e6)
