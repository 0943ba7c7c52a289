"""Simulated worlds from the command line.

``--seeds N`` runs many; ``--seed S`` replays one, cut down to what matters; ``--mutants`` shows that defects are caught.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields

import structlog

from tests.simulation.draw import draw
from tests.simulation.mutants import MUTANTS
from tests.simulation.mutants.mutant import Mutant
from tests.simulation.script import Rates, Script
from tests.simulation.shrink import Run, shrink
from tests.simulation.world import Outcome, World

EXERCISED = (
    "converged as of told",
    "direction converged as of told",
    "lag told",
    "least lag told",
    "feed records read",
    "feed hours folded",
    "feed hours lost",
    "feed watermark moved",
    "parked key tried again",
)
"""What worlds must have met, or their checks were of nothing."""


def simulate(script: Script, *, traced: bool = False) -> Outcome:
    """One world."""
    return World(script, traced=traced).run()


def one_seed(seed: int) -> Outcome:
    """For a pool."""
    return simulate(draw(seed))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--these", type=int, nargs="+", help="these and no others")
    parser.add_argument("--seed", type=int, help="replay one")
    parser.add_argument("--whole", action="store_true", help="with --seed: do not cut it down")
    parser.add_argument("--mutants", nargs="*", help="seeds until each defect is caught; names: only these")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"  # a set's order must not differ from run to run
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation.run", *sys.argv[1:]])  # noqa: S606 - ourselves
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))  # the trace tells more than the engine's log
    if options.mutants is not None:
        return mutants([one for one in MUTANTS if not options.mutants or one.name in options.mutants])
    if options.seed is not None:
        return replay(draw(options.seed), whole=options.whole)
    return many(options.these or range(options.first, options.first + options.seeds))


def _run(script: Script) -> Run:
    outcome = simulate(script)
    return Run(outcome.violations, outcome.choices)


def replay(script: Script, *, whole: bool) -> int:
    """One seed with its trace; a failing one is cut down first."""
    if not whole and simulate(script).violations:
        script = shrink(script, _run)
    outcome = simulate(script, traced=True)
    print("\n".join(outcome.trace))
    print(f"\n{script.seed}: {_settings_text(script)}")
    print("schedule: " + _schedule_text(script, outcome))
    for act in sorted((*script.users, *script.faults), key=lambda act: act.at):
        print(f"  {act}")
    print("\n".join(outcome.violations) or "no violation")
    return 1 if outcome.violations else 0


def _settings_text(script: Script) -> str:
    """Everything that is not as it is without anybody's choosing, or has no such value."""
    chosen = [one for one in fields(Script) if one.name not in {"seed", "users", "faults", "drawn", "rates"}]
    told = {one.name: getattr(script, one.name) for one in chosen if getattr(script, one.name) != one.default}
    noise = {one.name: getattr(script.rates, one.name) for one in fields(Rates)}
    told |= {one.name: noise[one.name] for one in fields(Rates) if noise[one.name] != one.default}
    return ", ".join(f"{name} {_plainly(value)}" for name, value in told.items())


def _plainly(value: object) -> object:
    return {str(side): one for side, one in value.items()} if isinstance(value, dict) else value


def _schedule_text(script: Script, outcome: Outcome) -> str:
    if script.drawn is None:
        return f"all {outcome.choices} choices drawn"
    drawn = sum(end - start for start, end in script.drawn)
    return f"first come, first served but for {drawn} of {outcome.choices} choices: {list(script.drawn)}"


def many(seeds: Iterable[int]) -> int:
    """Run *seeds* on all cores; 0 when nothing was violated."""
    started = time.monotonic()
    faults: Counter[str] = Counter()
    exercised: Counter[str] = Counter()
    count = steps = events = writes = conflicts = 0
    failed: list[int] = []
    for outcome in _pool(seeds):
        count += 1
        faults, exercised = faults + outcome.faults, exercised + outcome.exercised
        steps, events, writes = steps + outcome.steps, events + outcome.events, writes + outcome.writes
        conflicts += outcome.conflicts
        if outcome.violations:
            failed.append(outcome.script.seed)
            print(f"seed {outcome.script.seed}: {outcome.violations[0][:300]}", flush=True)
    seconds = time.monotonic() - started
    print(f"{count} seeds, {len(failed)} with violations, {count / seconds:.1f} seeds/s, {steps} steps of tasks")
    print(f"{writes} user writes, {events} events, {conflicts} conflicts; faults injected:")
    for kind, number in sorted(faults.items()):
        print(f"  {kind}: {number}")
    print("exercised:")
    for kind in EXERCISED:
        print(f"  {kind}: {exercised[kind]}")
    if failed:
        print(f"replay with: make simulate SEED={failed[0]}")
    return 1 if failed else 0


def _pool(seeds: Iterable[int]) -> Iterator[Outcome]:
    # Worlds leave their killed processes suspended for ever, so workers are replaced now and then.
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=20) as pool:
        yield from pool.imap_unordered(one_seed, seeds, chunksize=4)


def mutants(chosen: list[Mutant]) -> int:
    """A table of defects and the seeds until each was caught; 1 when one was not."""
    survived = 0
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        for name, seed, violation in pool.imap(_hunt, [one.name for one in chosen], chunksize=1):
            mutant = next(one for one in chosen if one.name == name)
            survived += seed is None
            caught = f"{seed:4} of at most {mutant.within}" if seed is not None else f"SURVIVED {mutant.within}"
            print(f"{name:28} {caught:20} {mutant.what}: {violation[:90]}", flush=True)
    print(f"{len(chosen)} mutants, {survived} survived")
    return 1 if survived else 0


def _hunt(name: str) -> tuple[str, int | None, str]:
    mutant = next(one for one in MUTANTS if one.name == name)
    with mutant.on():
        for count, seed in enumerate(range(mutant.first, mutant.first + mutant.within), start=1):
            violations = one_seed(seed).violations
            if violations:
                return name, count, f"seed {seed}: {violations[0]}"
    return name, None, ""


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # no clean-up of what killed processes left suspended
