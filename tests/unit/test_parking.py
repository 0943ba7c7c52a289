"""Why a key is parked, in words a person can act on."""

from __future__ import annotations

import pytest

from federation.rules.parking import REASONS, parking


@pytest.mark.parametrize("reason", [*REASONS, "never heard of"])
def test_every_reason_has_a_meaning_and_a_way_back(reason: str) -> None:
    """Also one that nobody named; what comes back by itself says so."""
    told = parking(reason)
    assert told.meaning.endswith(".")
    assert told.way_back.endswith(".")
    assert not told.by_itself or "fedplane parked retry" not in told.way_back
