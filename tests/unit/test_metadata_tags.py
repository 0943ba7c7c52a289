"""Tags between the sides: what a side can hold travels, what it cannot is neither lost at its source nor made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import metadata
from federation.model import Metadata, Side

_TEXT = st.text(st.sampled_from("aZ0 +-./:=_@é\U0001f600"), max_size=8)
_TAGS = st.dictionaries(_TEXT, _TEXT, max_size=14).map(lambda tags: tuple(sorted(tags.items())))


@given(_TAGS, st.sampled_from(Side))
def test_what_a_side_holds_comes_back_alike_and_the_rest_is_told(tags: tuple[tuple[str, str], ...], side: Side) -> None:
    """Written and read again it is the same, at most ten of them; what was left out makes the record lossy."""
    stored = metadata.to_side(Metadata(tags=tags), None, side)
    assert stored.tags is not None
    assert set(stored.tags) <= set(tags)
    assert len(stored.tags) <= metadata.MAX_TAGS
    assert stored.lossy is (stored.tags != tags)
    assert metadata.tags_on(stored.tags, side) == stored.tags
    assert metadata.held(Metadata(tags=tags), side).tags == stored.tags


def test_tags_that_are_not_looked_at_stay_so() -> None:
    """With ``rules.tags`` off there are none to map, and none is not the same as an empty set."""
    assert metadata.tags_on(None, Side.BLOB) is None
    assert metadata.shared(Metadata(tags=None), Side.BLOB).tags is None
    assert metadata.shared(Metadata(tags=()), Side.BLOB).tags == ()


@pytest.mark.parametrize(
    ("back", "over", "side", "want"),
    [
        ((("a", "2"),), (("a", "1"), ("é", "x")), Side.BLOB, (("a", "2"), ("é", "x"))),
        ((), (("a", "1"), ("é", "x")), Side.BLOB, (("é", "x"),)),
        ((("é", "2"),), (("a", "1"),), Side.VAST, (("é", "2"),)),
        (None, (("a", "1"),), Side.BLOB, None),
        ((("a", "1"),), None, Side.BLOB, (("a", "1"),)),
    ],
    ids=["changed beside one left out", "removed beside one left out", "all fitted", "not looked at here", "not looked at there"],
)
def test_what_did_not_fit_is_not_erased_by_the_way_back(
    back: tuple[tuple[str, str], ...] | None,
    over: tuple[tuple[str, str], ...] | None,
    side: Side,
    want: tuple[tuple[str, str], ...] | None,
) -> None:
    """A tag that a side could not hold says nothing by its absence there; one that it held and lost is gone."""
    assert metadata.carried_back(Metadata(tags=back), Metadata(tags=over), side).tags == want
