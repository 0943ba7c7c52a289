"""The simulation in CI: fresh worlds every day, those that once failed, replay, and deliberate defects that must be caught."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

from federation.model import Side
from tests.simulation.draw import draw
from tests.simulation.run import EXERCISED
from tests.simulation.script import Act, Script
from tests.simulation.seeds import FORMERLY_FAILING
from tests.simulation.shrink import Run, kind_of, shrink

ROOT = Path(__file__).resolve().parents[2]
FRESH = 500


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own: it fixes the order of sets, and leaves killed worlds behind."""
    command = [sys.executable, "-m", "tests.simulation.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own command


def test_no_rule_is_broken_in_fresh_worlds() -> None:
    """Every day brings other seeds; a failing one can be replayed; and what is rare was met, or its checks were of nothing."""
    day = (datetime.now(UTC).date() - date(2026, 1, 1)).days
    done = run("--seeds", str(FRESH), "--first", str(3_000_000 + day * FRESH))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{FRESH} seeds, 0 with violations" in done.stdout
    counted = {name: int(number) for name, number in re.findall(r"^  (.+): (\d+)$", done.stdout, re.MULTILINE)}
    assert [name for name in EXERCISED if not counted.get(name)] == [], "nothing was checked of these"


def test_no_rule_is_broken_in_worlds_that_once_failed() -> None:
    """What was found stays fixed."""
    done = run("--these", *map(str, FORMERLY_FAILING))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(FORMERLY_FAILING)} seeds, 0 with violations" in done.stdout


def test_a_seed_replays_exactly() -> None:
    """Two runs of one seed leave the same trace, line for line."""
    one, two = run("--seed", "24", "--whole"), run("--seed", "24", "--whole")
    assert one.returncode == two.returncode == 0, one.stdout[-2000:] + one.stderr
    assert one.stdout == two.stdout
    assert "settle" in one.stdout


def test_every_deliberate_defect_is_caught() -> None:
    """The simulation can fail: each mutant within the seeds it states."""
    done = run("--mutants")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 survived" in done.stdout


def test_a_failing_script_is_cut_down_to_what_fails() -> None:
    """Only the acts without which it would not fail are left."""

    def run_of(script: Script) -> Run:
        acts = {act.kind for act in script.users}
        return Run(["lost: something"] if {"put", "delete"} <= acts else [], 100)

    script = next(one for one in map(draw, range(1, 100)) if run_of(one).violations)
    small = shrink(script, run_of)
    assert sorted(act.kind for act in small.users) == ["delete", "put"]
    assert (small.faults, small.processes, small.rates.call_before, small.drawn) == ((), 1, 0.0, ())


def test_a_schedule_is_cut_down_to_the_choices_that_matter() -> None:
    """All others are made in order of arrival."""

    def run_of(script: Script) -> Run:
        drawn = ((0, 1000),) if script.drawn is None else script.drawn
        matter = all(any(start <= choice < end for start, end in drawn) for choice in (3, 700))
        return Run(["lost: something"] if matter else [], 1000)

    small = shrink(draw(1), run_of)
    assert small.drawn is not None
    assert sum(end - start for start, end in small.drawn) <= 4


def test_violations_are_of_one_kind_whatever_their_particulars() -> None:
    """So that shrinking does not wander off to another fault."""
    assert kind_of("lost: #1 of a") == kind_of("lost: #2 of b") != kind_of("came back: a")
    assert str(Act(1.0, "put", Side.BLOB, "k", number=3)) == "   1.000 put blob k 0 #3"
