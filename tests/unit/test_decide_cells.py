"""Every cell of the finite abstraction (tests/decision/cells.py), and what holds over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from federation.model import Side
from federation.rules.decision import Action, Reason
from tests.decision.cells import ABSENT, UNCHANGED, Agreed, Cell, Place, Seen, Times, Zone, cells

EVERY = tuple(cells())
READ = tuple(cell for cell in EVERY if Seen.UNREAD not in (cell.here, cell.there))
_DECIDED_ELSEWHERE = {Reason.SIZE_AND_TIME, Reason.REJECTED_DELETE, Reason.ONLY_KNOWN_TIME}
"""An operator's word; and an unknown time, which ``decide`` gives to the edit before it asks."""


def held_before(cell: Cell, place: Place) -> bool:
    """Whether the base says that this place held the object."""
    return cell.agreed is Agreed.BOTH or cell.agreed is (Agreed.HERE_ONLY if place is Place.HERE else Agreed.THERE_ONLY)


def deletes_to(cell: Cell, place: Place) -> bool:
    """The delete policy towards *place*."""
    return cell.deletes_here if place is Place.HERE else cell.deletes_there


def writing() -> Iterator[tuple[Cell, Place]]:
    """Cells whose decision writes, and where."""
    return ((cell, cell.outcome.target) for cell in READ if cell.outcome.target is not None)


def test_the_abstraction_is_whole() -> None:
    """Every combination of states, base and mode is asked, none twice, and together they reach every action and reason."""
    assert len(set(EVERY)) == len(EVERY)
    asked = {(cell.here, cell.there, cell.agreed, cell.master) for cell in EVERY}
    # Content changed under an agreed ETag only where an ETag was agreed on.
    assert len(asked) == (len(Seen) ** 2 + (len(Seen) - 1) ** 2 * (len(Agreed) - 1)) * 3
    assert {cell.outcome.action for cell in EVERY} == set(Action)
    assert {cell.outcome.reason for cell in EVERY} == set(Reason) - _DECIDED_ELSEWHERE


def test_no_side_is_preferred() -> None:
    """With "here" on the other side, tie winner, mode and policies going with it, the same is decided, place for place."""
    told_apart = [cell for cell in EVERY if cell.decide(Side.VAST) != cell.outcome]
    assert told_apart == []


def test_a_mirrored_cell_has_the_mirrored_decision() -> None:
    """Swapping the two sides of a question swaps the answer."""
    for cell in EVERY[::7]:
        assert cell.mirror.outcome == cell.outcome.mirror, cell
        assert cell.mirror.mirror == cell


def test_what_cannot_be_read_waits_and_nothing_else_does() -> None:
    """Rule 3."""
    for cell in EVERY:
        assert (cell.outcome.action == Action.WAIT) == (Seen.UNREAD in (cell.here, cell.there)), cell


def test_what_is_named_is_there() -> None:
    """Sources hold what is copied, a delete goes from the empty side to the full one, and only the side written to can lose."""
    for cell in READ:
        outcome = cell.outcome
        absent = {place for place in Place if cell.seen(place) in ABSENT}
        if outcome.source is not None:
            assert (outcome.source in absent) == (outcome.action == Action.DELETE), cell
        if outcome.target is not None and outcome.action != Action.COPY:
            assert outcome.target not in absent, cell
        assert outcome.preserve in (None, outcome.target), cell
        assert outcome.preserve is None or outcome.preserve not in absent, cell
        assert bool(outcome.hash_of) == (outcome.action == Action.HASH), cell


def test_no_delete_without_a_live_base() -> None:
    """Rule 4: only what the emptied side is known to have held is deleted on the other, where policy and mode let deletes go."""
    deleted = 0
    for cell, target in writing():
        if cell.outcome.action != Action.DELETE or cell.outcome.reason == Reason.FOREIGN_IN_ZONE:
            continue
        deleted += 1
        assert held_before(cell, target.other), cell
        assert deletes_to(cell, target), cell
        assert cell.master in (None, target.other), cell
    assert deleted > 1_000


def test_a_foreign_object_is_removed_only_when_asked_for_and_kept_first() -> None:
    """The one delete without a base: in a read-only zone, by policy, preserved, and never while the base is being rebuilt."""
    removed = [
        cell for cell, _ in writing() if cell.outcome.action == Action.DELETE and cell.outcome.reason == Reason.FOREIGN_IN_ZONE
    ]
    assert removed
    for cell in removed:
        assert cell.zone is Zone.REMOVE, cell
        assert cell.outcome.target is not cell.master, cell
        assert cell.master is not None, cell
        assert cell.outcome.preserve is cell.outcome.target, cell


def test_a_master_is_never_written() -> None:
    """Where one side leads, nothing is copied to it, changed on it or deleted from it."""
    assert [cell for cell, target in writing() if target is cell.master] == []


def at_stake(cell: Cell, place: Place) -> bool:
    """Whether a user's version at *place* would be lost by overwriting it."""
    seen = cell.seen(place)
    if seen in ABSENT or (seen is Seen.COPY and cell.hashed):
        return False
    # Where the peer was let go there is no agreed content to compare with; a side's own record still tells for a delete.
    agreed = cell.agreed is Agreed.BOTH or (cell.seen(place.other) in ABSENT and held_before(cell, place))
    if agreed and seen in (Seen.SAME, Seen.TAGGED):
        return False
    # Written again alike: nothing is lost by a change of the peer, which saw that content, but something by its delete.
    return not (agreed and seen is Seen.TOUCHED and cell.hashed and cell.seen(place.other) not in ABSENT)


def test_whatever_loses_is_preserved() -> None:
    """Rule 1: a user's version is never overwritten or deleted unless it is kept first or is the agreed one."""
    lost = [cell for cell, target in writing() if at_stake(cell, target) and cell.outcome.preserve is not target]
    assert lost == []


def test_nothing_is_preserved_for_nothing() -> None:
    """What both sides agreed on makes no conflict copy, save where a zone's writer put it back over our newer copy."""
    for cell, target in writing():
        foreign = cell.outcome.reason == Reason.FOREIGN_IN_ZONE  # all that is left of it, whoever wrote it
        if cell.outcome.preserve is not None and not foreign and not at_stake(cell, target):
            assert cell.seen(target.other) is Seen.COPY, cell
            assert cell.master is target.other, cell


def test_tags_are_no_change() -> None:
    """Tags are not synchronised: a tags-only change decides as none at all, so it moves no data and makes no conflict."""
    tagged = [cell for cell in EVERY if Seen.TAGGED in (cell.here, cell.there)]
    for cell in tagged:
        plain = replace(
            cell,
            here=Seen.SAME if cell.here is Seen.TAGGED else cell.here,
            there=Seen.SAME if cell.there is Seen.TAGGED else cell.there,
        )
        assert cell.outcome == plain.outcome, cell
        if cell.agreed is Agreed.BOTH and {cell.here, cell.there} <= {Seen.SAME, Seen.TAGGED}:
            assert cell.outcome.action == Action.NOTHING, cell


def test_equal_contents_move_no_bytes() -> None:
    """Both unchanged, or changed alike, with hashes that say so: recorded at most."""
    for cell in READ:
        unchanged = cell.here in UNCHANGED and cell.there in UNCHANGED
        if cell.hashed and (unchanged or cell.alike):
            assert cell.outcome.action in (Action.NOTHING, Action.ADOPT), cell


def test_a_metadata_change_moves_no_bytes() -> None:
    """Where the contents are known to be equal, only metadata travels."""
    for cell in READ:
        if cell.hashed and {cell.here, cell.there} <= UNCHANGED | {Seen.METADATA}:
            assert cell.outcome.action != Action.COPY, cell


def test_what_no_hash_tells_apart_is_a_change_of_content() -> None:
    """Without hashes a rewrite, new metadata or a copy of ours is taken for new content, or the contents are hashed first."""
    guess = dict.fromkeys((Seen.TOUCHED, Seen.METADATA, Seen.COPY, Seen.IN_PLACE), Seen.CONTENT)
    for cell in READ:
        if not cell.hashed and cell.outcome.action != Action.HASH:
            known = replace(cell, here=guess.get(cell.here, cell.here), there=guess.get(cell.there, cell.there))
            assert cell.outcome == replace(known, hashed=True).outcome, cell


def test_a_tombstone_forgotten_changes_no_action() -> None:
    """Expiry is safe: with the tombstone or without it the same is done, only its reason is called new instead of recreated."""
    for cell in READ:
        if cell.agreed is Agreed.TOMBSTONE:
            forgotten = replace(cell, agreed=Agreed.NEVER).outcome
            reason = Reason.NEW if cell.outcome.reason == Reason.RECREATED else cell.outcome.reason
            assert forgotten == replace(cell.outcome, reason=reason), cell


def test_an_edit_beats_a_delete_of_unknown_time() -> None:
    """Both writable, edited here, gone there at no known time: the edit is copied, whatever times and policies say."""
    for cell in READ:
        if cell.master is None and cell.here in (Seen.METADATA, Seen.CONTENT, Seen.IN_PLACE) and cell.there is Seen.GONE:
            assert cell.outcome.action == Action.COPY, cell
            assert cell.outcome.source is Place.HERE, cell


def test_times_matter_only_between_two_writers() -> None:
    """In a zone, and where one side alone changed, no clock decides."""
    for cell in READ:
        changed = [
            cell.seen(place) not in UNCHANGED or (cell.seen(place) is Seen.TOUCHED and cell.seen(place.other) in ABSENT)
            for place in Place
        ]
        if cell.master is not None or (cell.agreed is Agreed.BOTH and cell.hashed and not all(changed)):
            assert cell.outcome == replace(cell, times=Times.HERE_LATER).outcome, cell


@pytest.mark.parametrize("place", list(Place))
def test_deletes_switched_off_towards_a_side_delete_nothing_there(place: Place) -> None:
    """The policy is one direction's own: foreign objects in a zone are another setting's business."""
    for cell, target in writing():
        if target is place and not deletes_to(cell, place):
            assert cell.outcome.action != Action.DELETE or cell.outcome.reason == Reason.FOREIGN_IN_ZONE, cell
