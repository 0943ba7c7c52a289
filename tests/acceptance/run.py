"""Show by running it what the first whole slice promises: ``make accept``, or one stage: ``python -m tests.acceptance.run live``.

Black box: the local stack's servers, ``fedplane`` as processes, the services' own SDKs. Figures go to
``.fedplane/acceptance/results.json`` and, by hand, into docs/measurements.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable

from tests.acceptance import stages_away as away
from tests.acceptance import stages_change_feed as feed
from tests.acceptance import stages_converge as converge
from tests.acceptance import stages_faults as faults
from tests.acceptance import stages_functions as functions
from tests.acceptance import stages_huge as huge
from tests.acceptance import stages_input as wrong
from tests.acceptance import stages_kafka as kafka
from tests.acceptance import stages_live as live
from tests.acceptance import stages_own as own
from tests.acceptance import stages_peer as peer
from tests.acceptance import stages_resume as resume
from tests.acceptance import stages_scan as scans
from tests.acceptance import stages_state as state
from tests.acceptance import stages_transfer as transfer
from tests.acceptance.lab import HOME, Results

Stages = dict[str, Callable[[Results], None]]

STAGES: Stages = {
    "real_input": converge.real_input,
    "second_run": converge.second_run,
    "live": live.live,
    "events_alone": live.events_alone,
    "lost_events": live.lost_events,
    "no_events": converge.no_events,
    "killed": faults.killed,
    "servers_away": faults.servers_away,
    "redis_emptied": converge.redis_emptied,
    "bad_input": wrong.bad_input,
}

SOURCES: Stages = {
    "feed_alone": feed.feed_alone,
    "feed_exactly_once": feed.feed_exactly_once,
    "feed_killed": feed.feed_killed,
    "kafka_killed": kafka.kafka_killed,
}
TRANSFER: Stages = {
    "resumed": transfer.resumed,
    "parallel": transfer.parallel,
    "faulty": transfer.faulty,
    "peer": peer.peer,
    "bulk": transfer.bulk,
}
STATE: Stages = {
    "scan_killed": scans.scan_killed,
    "scan_resumed": resume.scan_resumed,
    "mass_delete": scans.mass_delete,
    "side_away": away.side_away,
    "flushed": state.flushed,
    "restored": state.restored,
    "failover": state.failover,
}
FUNCTIONS: Stages = {
    "functions_live": functions.functions_live,
    "functions_real_minute": functions.functions_real_minute,
    "functions_lost_events": functions.functions_lost_events,
    "functions_killed": functions.functions_killed,
}
OWN: Stages = {"own_server": own.own_server}
HUGE: Stages = {"huge": huge.huge}
"""Needs 16 GiB of disk."""
GROUPS: dict[str, Stages] = {
    "first": STAGES,
    "sources": SOURCES,
    "transfer": TRANSFER,
    "state": STATE,
    "functions": FUNCTIONS,
    "own": OWN,
    "huge": HUGE,
}
ALL: Stages = {name: stage for group in GROUPS.values() for name, stage in group.items()}


def main() -> int:
    """Run the chosen stages; 1 when a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", choices=[[], *GROUPS, *ALL], help="groups or stages; default: the group 'first'")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter")
    parser.add_argument("--full", action="store_true", help="versitygw and Apache Kafka instead of moto and the mock broker")
    given = parser.parse_args()
    results = Results(quick=given.quick, full=given.full)
    for name in [stage for wanted in given.stages or ["first"] for stage in GROUPS.get(wanted, [wanted])]:
        results.stage = name
        print(f"== {name}: {(ALL[name].__doc__ or '').splitlines()[0]}", flush=True)
        started = time.monotonic()
        try:
            ALL[name](results)
        except Exception as error:
            traceback.print_exc()
            results.check("the stage runs to its end", False, repr(error)[:200])
        results.figure("stage_seconds", round(time.monotonic() - started, 1))
    _write(results)
    kept = len(results.checks) - results.failed
    print(f"{kept} passed, {results.failed} failed")
    for stage, promise, fine in results.checks:
        if not fine:
            print(f"  FAILED {stage}: {promise}")
    return 1 if results.failed else 0


def _write(results: Results) -> None:
    HOME.mkdir(parents=True, exist_ok=True)
    told = {
        "quick": results.quick,
        "full": results.full,
        "python": platform.python_version(),
        "figures": results.figures,
        "checks": [{"stage": stage, "promise": promise, "kept": kept} for stage, promise, kept in results.checks],
    }
    (HOME / "results.json").write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    sys.exit(main())
