"""What the acceptance runs check can fail: a mark that tells parts apart, a change that never comes, a peer that is not there."""

from __future__ import annotations

import hashlib
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.acceptance import stages_peer, stages_transfer, users
from tests.acceptance.lab import Lab, Results
from tests.acceptance.stages_huge import sparse

PART = 64


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_no_part_of_the_huge_file_can_stand_for_another(tmp_path: Path) -> None:
    """Of a file of five parts any two swapped, any one lost, repeated, or without its end give another hash than the file's."""
    file = tmp_path / "huge"
    whole = sparse(file, 4 * PART + 9, PART)
    data = file.read_bytes()
    assert (len(data), _md5(data)) == (4 * PART + 9, whole)
    parts = [data[at : at + PART] for at in range(0, len(data), PART)]
    assert len(set(parts)) == len(parts) == 5
    for one, other in combinations(range(5), 2):
        swapped = parts.copy()
        swapped[one], swapped[other] = parts[other], parts[one]
        assert _md5(b"".join(swapped)) != whole
    for number, part in enumerate(parts):
        before, after = b"".join(parts[:number]), b"".join(parts[number + 1 :])
        for wrong in (b"", bytes(len(part)), part + part, part[:-1] + b"\0", b"\0" + part[1:]):
            assert _md5(before + wrong + after) != whole


@pytest.mark.parametrize("comes", [True, False])
def test_a_small_change_that_never_comes_fails_the_stage(monkeypatch: pytest.MonkeyPatch, *, comes: bool) -> None:
    """It is not only a slow one among the figures."""
    monkeypatch.setattr(users, "BlobUser", lambda _: SimpleNamespace(put=lambda *_: None, close=lambda: None))
    monkeypatch.setattr(stages_transfer, "_on_vast", lambda *_: {"quiet/0", "quiet/1"} if comes else {"quiet/0"})
    monkeypatch.setattr(stages_transfer, "_LOST_SECONDS", 0.0)
    monkeypatch.setattr(stages_transfer, "_EVERY_SECONDS", 0.0)
    results = Results(quick=True, full=False)
    the = cast("Lab", SimpleNamespace(info={}, results=results))
    puts, delays = stages_transfer._small_changes(the, "quiet", 2, lambda: True)
    assert (len(puts), len(delays)) == (2, 2)
    assert results.failed == (not comes)
    assert len(results.checks) == 1


@pytest.mark.parametrize("full", [True, False])
def test_a_full_run_without_its_peer_fails(monkeypatch: pytest.MonkeyPatch, *, full: bool) -> None:
    """Where neither rclone nor Go is there, a comparison that was asked for in full did not take place."""
    monkeypatch.setattr(stages_peer, "rclone_binary", lambda: None)
    results = Results(quick=True, full=full)
    stages_peer.peer(results)
    assert results.failed == full
