"""Run simulated worlds: ``python -m tests.simulation.run --seeds 1000`` or ``--seed 123``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator

import structlog

from tests.simulation.script import Script, draw
from tests.simulation.world import Outcome, World


def simulate(script: Script, *, traced: bool = False) -> Outcome:
    """One world."""
    return World(script, traced=traced).run()


def quiet() -> None:
    """Logs of the engine are not looked at here."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))


def one_seed(seed: int) -> Outcome:
    """For a pool."""
    return simulate(draw(seed))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="replay one, with its trace")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"  # a set's order must not differ from run to run
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation.run", *sys.argv[1:]])  # noqa: S606 - ourselves
    quiet()
    if options.seed is not None:
        outcome = simulate(draw(options.seed), traced=True)
        print("\n".join(outcome.trace))
        print(outcome.script)
        print("\n".join(outcome.violations) or "no violation")
        return 1 if outcome.violations else 0
    return many(range(options.first, options.first + options.seeds))


def many(seeds: range) -> int:
    """Run *seeds* on all cores; 0 when nothing was violated."""
    started = time.monotonic()
    faults: Counter[str] = Counter()
    steps = events = writes = conflicts = 0
    failed: list[Outcome] = []
    for outcome in _pool(seeds):
        faults += outcome.faults
        steps, events, writes = steps + outcome.steps, events + outcome.events, writes + outcome.writes
        conflicts += outcome.conflicts
        if outcome.violations:
            failed.append(outcome)
            print(f"seed {outcome.script.seed}: {outcome.violations[0]}", flush=True)
    seconds = time.monotonic() - started
    print(f"{len(seeds)} seeds, {len(failed)} with violations, {len(seeds) / seconds:.1f} seeds/s")
    print(f"{writes} user writes, {events} events, {conflicts} conflicts, {steps} steps; faults injected:")
    for kind, number in sorted(faults.items()):
        print(f"  {kind}: {number}")
    return 1 if failed else 0


def _pool(seeds: range) -> Iterator[Outcome]:
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=20) as pool:
        yield from pool.imap_unordered(one_seed, seeds, chunksize=4)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # no clean-up of what killed processes left suspended
