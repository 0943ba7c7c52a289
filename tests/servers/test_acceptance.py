from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = (
    "real_input",
    "events_alone",
    "lost_events",
    "no_events",
    "killed",
    "redis_emptied",
    "bad_input",
    "scan_killed",
    "mass_delete",
    "flushed",
    "restored",
    "failover",
)


@pytest.mark.servers
@pytest.mark.parametrize("stage", STAGES)
def test_the_acceptance_stage_keeps_its_promises_in_small(stage: str) -> None:
    """What `make accept` shows at full size holds in its quick form too; see tests/acceptance."""
    command = [sys.executable, "-m", "tests.acceptance.run", "--quick", stage]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
