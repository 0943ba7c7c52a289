"""Predicates that stand before a write."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.model import ECHO_SLACK_US, Base, ETagKind, Hint, HintEntry, Present, Side, Stamp, StampOrigin, Version
from federation.rules.guards import (
    DELETE_FLOOR,
    PAIR_OPTIONS_CHANGED,
    SELF_LIFTING_HALTS,
    SIDE_EMPTIED,
    changed_options,
    changed_side,
    content_in_doubt,
    content_name,
    delete_limit,
    quiet_until_us,
    side_emptied,
    tally_text,
    vouched,
)

SECOND = 1_000_000
T0 = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("objects", "count", "share", "limit"),
    [
        (0, 1000, 0.2, DELETE_FLOOR),
        (10, 1000, 0.2, DELETE_FLOOR),
        (125, 1000, 0.2, 25),
        (1000, 1000, 0.2, 200),
        (5000, 1000, 0.2, 1000),
        (1_000_000, 1000, 0.2, 1000),
        (1_000_000, 10, 1.0, 10),
        (0, 10, 0.2, 10),
        (1000, 1000, 1.0, 1000),
    ],
)
def test_the_delete_budget_is_the_smaller_of_count_and_share(objects: int, count: int, share: float, limit: int) -> None:
    """A share of what is known, never more than the count, and a small floor that the count still caps."""
    assert delete_limit(objects, count=count, share=share) == limit


@given(st.integers(0, 10**9), st.integers(1, 10**6), st.floats(0.001, 1.0))
def test_the_delete_budget_never_passes_the_count_and_grows_with_the_objects(objects: int, count: int, share: float) -> None:
    """Monotonic in what is known, bounded by what was configured, never zero."""
    limit = delete_limit(objects, count=count, share=share)
    assert 0 < limit <= count
    assert limit <= delete_limit(objects + 1, count=count, share=share)


@pytest.mark.parametrize(("listed", "known", "emptied"), [(0, 1, True), (0, 10**6, True), (0, 0, False), (1, 10**6, False)])
def test_a_side_is_emptied_when_nothing_is_listed_and_something_is_known(listed: int, known: int, emptied: bool) -> None:
    """A new, empty pair is not one that was emptied."""
    assert side_emptied(listed, known) is emptied


def test_an_emptied_side_waits_for_a_person() -> None:
    """That halt does not lift itself (rule 8)."""
    assert SIDE_EMPTIED not in SELF_LIFTING_HALTS


@pytest.mark.parametrize(
    ("recorded", "current", "changed"),
    [
        ({"prefix": "a/"}, {"prefix": "a/"}, ()),
        ({"prefix": "a/"}, {"prefix": "b/"}, ("prefix",)),
        ({"prefix": "a/", "bucket": "x"}, {"prefix": "", "bucket": "y"}, ("bucket", "prefix")),
        ({}, {"prefix": "a/"}, ()),
        ({"gone": "x"}, {}, ()),
    ],
    ids=["same", "one", "two_sorted", "an_option_that_is_new", "an_option_that_is_no_more"],
)
def test_options_that_changed_under_a_base_are_named(
    recorded: dict[str, str], current: dict[str, str], changed: tuple[str, ...]
) -> None:
    """What an older program did not record counts as unchanged."""
    assert changed_options(recorded, current) == changed


@pytest.mark.parametrize(
    ("md5", "size", "name"),
    [("m", 3, "m:3"), (None, 3, ""), ("m", 0, ""), (None, 0, "")],
    ids=["known", "no_hash", "empty", "neither"],
)
def test_a_content_has_a_name_when_its_hash_is_known_and_it_is_not_empty(md5: str | None, size: int, name: str) -> None:
    """Two empty objects share no content by which one could be the other renamed."""
    assert content_name(md5, size) == name


@pytest.mark.parametrize(
    ("deletes", "renames", "text"),
    [
        (1_200, 1_150, "1,200 deletes, 1,150 of them renames"),
        (1, 0, "1 delete"),
        (0, 0, "0 deletes"),
        (1, 1, "1 delete, 1 of them renames"),
    ],
)
def test_deletes_and_renames_are_told_as_both_numbers(deletes: int, renames: int, text: str) -> None:
    """A person sees at a glance what a mass of deletes is."""
    assert tally_text(deletes, renames) == text


def test_a_pair_whose_options_changed_waits_for_a_person() -> None:
    """That halt does not lift itself while its cause is there."""
    assert PAIR_OPTIONS_CHANGED not in SELF_LIFTING_HALTS


# -------------------------------------------------------------------------------------------------------- young file writes


def version(etag: str = "v2", *, precision_us: int = SECOND) -> Present:
    """What VAST holds."""
    return Present(Version(etag, 3, Stamp(T0, precision_us)))


def told(etag: str | None, origin: StampOrigin | None = StampOrigin.EVENT, *, side: Side = Side.VAST) -> Hint:
    """A hint with one entry of that side."""
    entry = HintEntry(etag, at=Stamp(T0, 1, origin) if origin is not None else None)
    return Hint("k", 1, blob=(entry,) if side is Side.BLOB else (), vast=(entry,) if side is Side.VAST else ())


def held(etag: str = "v2", *, size: int = 3, later_us: int = 0, digest: bytes = b"p") -> Present:
    """What VAST holds, compared with what was agreed."""
    return Present(Version(etag, size, Stamp(T0 + later_us, 1)), metadata_digest=digest)


SCANNED = told(None, StampOrigin.SCAN)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (told("v2"), True),
        (told("v2", StampOrigin.CHANGE_FEED), True),
        (told("v1"), False),
        (told(None), False),
        (told("v2", StampOrigin.SCAN), False),
        (told("v2", StampOrigin.LAST_MODIFIED), False),
        (told("v2", None), False),
        (told("v2", side=Side.BLOB), False),
        (Hint("k", 1), False),
    ],
    ids=["event", "feed", "older_version", "no_etag", "scan", "listing", "no_time", "other_side", "nothing"],
)
def test_only_an_event_that_names_this_version_vouches_for_it(hint: Hint, expected: bool) -> None:
    """Then it was written over S3, in one atomic step, and may be read at once; else it must have been quiet."""
    assert vouched(version(), hint) is expected
    assert (quiet_until_us(version(), hint, quiet_us=5 * SECOND, now_us=T0) == 0) is expected


def test_one_voucher_among_several_hints_is_enough() -> None:
    """Older news beside it does not take the voucher away."""
    hint = Hint("k", 3, vast=(HintEntry("v1"), HintEntry(None), HintEntry("v2", at=Stamp(T0, 1, StampOrigin.EVENT))))
    assert vouched(version(), hint)


@pytest.mark.parametrize("precision_us", [1, SECOND])
def test_quiet_is_counted_from_the_latest_moment_the_time_allows(precision_us: int) -> None:
    """A time in whole seconds may hide a write just before the next."""
    until = quiet_until_us(version(precision_us=precision_us), Hint("k", 1), quiet_us=5 * SECOND, now_us=T0)
    assert until == T0 + precision_us + 5 * SECOND


def test_of_a_file_from_the_future_it_is_counted_since_a_scan_saw_this_version() -> None:
    """Else a client with a wrong clock could keep a file from ever being copied; what nobody saw before is first seen now."""
    now_us = T0 - 3600 * SECOND
    seen = Stamp(now_us - 4 * SECOND, SECOND, StampOrigin.LAST_MODIFIED)
    entries = (HintEntry("v2", at=seen), HintEntry("v1", at=replace(seen, at_us=now_us)), HintEntry(None))
    quiet_us = 5 * SECOND
    assert quiet_until_us(version(), Hint("k", 1, vast=entries), quiet_us=quiet_us, now_us=now_us) == now_us + SECOND
    assert quiet_until_us(version(), Hint("k", 1, vast=entries[1:]), quiet_us=quiet_us, now_us=now_us) == now_us + quiet_us
    again = (*entries, HintEntry("v2", at=replace(seen, at_us=now_us)))
    assert quiet_until_us(version(), Hint("k", 1, vast=again), quiet_us=quiet_us, now_us=now_us) == now_us + quiet_us


LATER = ECHO_SLACK_US + 1
AGREED = Base(vast_etag="v2", size_bytes=3, metadata_digest=b"p", vast_as_of_us=T0)


@pytest.mark.parametrize(
    ("here", "base", "hint", "doubt"),
    [
        (held(later_us=LATER), AGREED, SCANNED, True),
        (held(later_us=LATER - 1), AGREED, SCANNED, False),
        (held(size=4), AGREED, SCANNED, True),
        (held(size=4, later_us=LATER), AGREED, told("v2"), False),
        (held(later_us=LATER, digest=b"q"), AGREED, SCANNED, False),
        (held(size=4, digest=b"q"), AGREED, SCANNED, True),
        (held("v3", size=4, later_us=LATER), AGREED, SCANNED, False),
        (held(later_us=LATER), replace(AGREED, vast_as_of_us=0), SCANNED, False),
        (held(later_us=LATER), replace(AGREED, vast_as_of_us=1), SCANNED, True),
        (held(size=4), replace(AGREED, deleted=True), SCANNED, False),
        (held(size=4), None, SCANNED, False),
    ],
    ids=[
        "later",
        "as_known",
        "other_size",
        "vouched",
        "metadata_tells_why_it_is_later",
        "other_size_and_metadata",
        "another_etag_is_news_anyway",
        "time_never_known",
        "known_since_the_beginning",
        "tombstone",
        "no_base",
    ],
)
def test_an_agreed_etag_is_doubted_where_size_or_time_say_that_a_file_was_written(
    here: Present, base: Base | None, hint: Hint, doubt: bool
) -> None:
    """Some servers keep an ETag when the file below is overwritten in place (docs/adr/0005)."""
    assert content_in_doubt(here, base, hint, now_us=T0 + 10 * SECOND) is doubt


@pytest.mark.parametrize(("kind", "doubt"), [(ETagKind.FILE_SIDE, False), (ETagKind.MD5, True)])
def test_a_time_that_is_still_to_come_is_no_write_s_on_a_file(kind: ETagKind, doubt: bool) -> None:
    """Once it has come it may be one's; another size always is; an S3 ETag may outlive a write to the file below."""
    here = held(later_us=LATER)
    here = replace(here, version=replace(here.version, etag_kind=kind))
    assert content_in_doubt(here, AGREED, SCANNED, now_us=T0) is doubt
    assert content_in_doubt(here, AGREED, SCANNED, now_us=T0 + LATER)
    assert content_in_doubt(replace(here, version=replace(here.version, size_bytes=4)), AGREED, SCANNED, now_us=T0)


NEWS = (HintEntry("e"),)


@pytest.mark.parametrize(
    ("hint", "side"),
    [
        (Hint("k", 1, blob=NEWS), Side.BLOB),
        (Hint("k", 1, vast=NEWS), Side.VAST),
        (Hint("k", 1, blob=NEWS, vast=NEWS), None),
        (Hint("k", 1), None),
    ],
    ids=["blob", "vast", "both", "none"],
)
def test_the_only_side_a_hint_speaks_of(hint: Hint, side: Side | None) -> None:
    """Both or none: nobody may assume that the other is as agreed."""
    assert changed_side(hint) is side
