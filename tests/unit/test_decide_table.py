"""The decision as a table: what is here, what is there, what was agreed, and what follows; "here" is run on either side."""

from __future__ import annotations

import pytest

from federation.model import Side
from federation.rules.decision import Action, Decision, Reason
from tests.decision.rows import Row, outcome
from tests.decision.rows_both_changed import BOTH_CHANGED
from tests.decision.rows_equal import EQUAL, UNREADABLE
from tests.decision.rows_one_changed import DELETED, LET_GO, NEW, ONE_CHANGED

ROWS = [*UNREADABLE, *EQUAL, *NEW, *ONE_CHANGED, *DELETED, *LET_GO, *BOTH_CHANGED]


@pytest.mark.parametrize("here", list(Side), ids=lambda side: f"here_is_{side}")
@pytest.mark.parametrize("one", ROWS, ids=lambda one: one.text.replace(" ", "_"))
def test_the_table(one: Row, here: Side) -> None:
    """Each described situation leads to exactly this decision, on either side and in each of its modes."""
    for mode in one.modes:
        decided, want = outcome(one, here, mode)
        assert decided == want, f"mode: {mode}"


def test_rows_are_told_apart_by_their_words() -> None:
    """Two rows with one description would hide one of them."""
    assert len({one.text for one in ROWS}) == len(ROWS) >= 120


def test_a_decision_without_a_source_has_no_direction() -> None:
    """Asking where a WAIT writes to is a mistake that shows."""
    with pytest.raises(ValueError, match="wait has no direction"):
        _ = Decision(Action.WAIT, Reason.UNREADABLE).destination
    assert Decision(Action.COPY, Reason.NEW, source=Side.BLOB).destination is Side.VAST


@pytest.mark.parametrize("reason", list(Reason), ids=str)
@pytest.mark.parametrize("action", list(Action), ids=str)
def test_only_a_write_against_a_zone_s_writer_is_a_revert(action: Action, reason: Reason) -> None:
    """Undoing counts against the key's limit; leaving a foreign object alone does not, nor does any user's own change."""
    writes = action in {Action.COPY, Action.METADATA, Action.DELETE}
    against = reason in {Reason.READ_ONLY_ZONE, Reason.FOREIGN_IN_ZONE}
    assert Decision(action, reason, source=Side.BLOB).reverts is (writes and against)
