"""Lock-step merge, and what a row says against the base."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import Halt, RetryLater
from federation.model import Base, ListEntry, Side, Stamp
from federation.state.records import PackedBases, pack_base
from reconciler.drift import Drift, News, changes, drift, news, out_of_step
from reconciler.merge import Batch, Row, in_pages, merge

SECOND = 1_000_000
_KEYS = st.lists(st.text(min_size=1, max_size=6).filter(lambda key: key.isprintable()), unique=True)
NOW_US = dict.fromkeys(Side, 300 * SECOND)


def _entry(key: str, etag: str = "e", at_s: int = 100) -> ListEntry:
    return ListEntry(key, etag, 1, Stamp(at_s * SECOND))


async def _listing(keys: list[str], fail_after: int | None = None) -> AsyncIterator[ListEntry]:
    for number, key in enumerate(keys):
        if number == fail_after:
            raise RetryLater("page failed", reason="throttled")
        yield _entry(key)
    if fail_after is not None and fail_after >= len(keys):
        raise RetryLater("page failed", reason="throttled")


def _merged(blob: AsyncIterator[ListEntry], vast: AsyncIterator[ListEntry], rows_a_page: int = 3) -> AsyncIterator[Batch]:
    return merge(in_pages(blob, rows_a_page), in_pages(vast, rows_a_page + 2))


def _ordered(keys: list[str]) -> list[str]:
    return sorted(keys, key=str.encode)


@given(_KEYS, _KEYS, _KEYS, st.integers(1, 5))
async def test_merge_is_the_union_of_both_listings_in_byte_order(
    only_blob: list[str], only_vast: list[str], both: list[str], rows_a_page: int
) -> None:
    """Every key once, on the sides that list it, ascending by UTF-8 bytes, however the pages are cut."""
    blob, vast = sorted({*only_blob, *both}), sorted({*only_vast, *both})
    rows: list[Row] = []
    await _collect(rows, _merged(_listing(_ordered(blob)), _listing(_ordered(vast)), rows_a_page))

    assert [row.key for row in rows] == _ordered(list({*blob, *vast}))
    assert [row.key for row in rows if row.blob] == _ordered(blob)
    assert [row.key for row in rows if row.vast] == _ordered(vast)


@given(_KEYS, _KEYS, st.data())
async def test_a_failing_listing_is_never_one_that_ended(blob: list[str], vast: list[str], data: st.DataObject) -> None:
    """Whatever page fails, the merge raises, and no row before it claims an absence the whole listing would not."""
    fail_after = data.draw(st.integers(0, len(blob)))
    rows: list[Row] = []
    with pytest.raises(RetryLater):
        await _collect(rows, _merged(_listing(_ordered(blob), fail_after), _listing(_ordered(vast))))
    assert all((row.blob is not None) == (row.key in blob) for row in rows)


async def _collect(rows: list[Row], merged: AsyncIterator[Batch]) -> None:
    async for batch in merged:
        rows += batch.rows()


@pytest.mark.parametrize("keys", [["b", "a"], ["a", "a"], ["a", "b", "c", "b"], ["a", "b", "c", "c"]])
async def test_a_listing_out_of_order_stops_the_merge(keys: list[str]) -> None:
    """Out of order, or a key twice, within a page or from one to the next, is a named halt."""
    with pytest.raises(Halt) as caught:
        await _collect([], _merged(_listing(keys), _listing([])))
    assert caught.value.reason == "listing_order"


AGREED = Base(blob_etag="B", vast_etag="V", size_bytes=1, vast_as_of_us=200 * SECOND)
ONE_SIDED = Base(vast_etag="V", size_bytes=1, vast_as_of_us=200 * SECOND)
GONE = Base(deleted=True)


@pytest.mark.parametrize(
    ("blob", "vast", "base", "kind"),
    [
        ("B", "V", AGREED, None),
        ("B2", "V", AGREED, Drift.CHANGED_BLOB),
        ("B", "V2", AGREED, Drift.CHANGED_VAST),
        ("B2", "V2", AGREED, Drift.CHANGED_BOTH),
        (None, "V", AGREED, Drift.DELETED_BLOB),
        ("B", None, AGREED, Drift.DELETED_VAST),
        ("B2", None, AGREED, Drift.CHANGED_AND_DELETED),
        ("B", None, None, Drift.ONLY_BLOB),
        (None, "V", GONE, Drift.ONLY_VAST),
        ("B", "V", None, Drift.NOT_AGREED),
        ("B", "V", GONE, Drift.NOT_AGREED),
        (None, "V", ONE_SIDED, None),
        ("B", "V", ONE_SIDED, Drift.CHANGED_BLOB),
    ],
)
def test_drift_by_kind(blob: str | None, vast: str | None, base: Base | None, kind: Drift | None) -> None:
    """Each shape of difference has its name, and only a live base can make a delete of an absence."""
    row = Row("k", _entry("k", blob) if blob else None, _entry("k", vast) if vast else None)

    assert drift(row, base) is kind
    deletes = [change for change in changes(row, base, now_us=NOW_US) if change.deleted]
    assert not deletes or (base is not None and base.live)
    assert (kind is None) == (changes(row, base, now_us=NOW_US) == [])


def test_an_agreed_etag_that_may_be_later_is_to_be_verified_on_vast_only() -> None:
    """Metadata may change under an S3 ETag; one look settles it. Blob's ETag changes with everything."""
    later = _entry("k", "V", at_s=200)
    assert news(later, AGREED, Side.VAST) is News.UNVERIFIED
    assert news(_entry("k", "V", at_s=199), AGREED, Side.VAST) is News.SAME
    assert news(_entry("k", "B", at_s=500), AGREED, Side.BLOB) is News.SAME

    row = Row("k", _entry("k", "B"), later)
    assert drift(row, AGREED) is Drift.UNVERIFIED
    [change] = changes(row, AGREED, now_us=NOW_US)
    assert (change.side, change.etag, change.deleted) == (Side.VAST, None, False)


@pytest.mark.parametrize("at_s", [290, 9_000])
def test_a_file_that_says_it_is_of_the_future_is_told_as_changed_now(at_s: int) -> None:
    """By its side's clock; else status would say that everything before that file's time is applied."""
    row = Row("k", _entry("k", "B"), _entry("k", "V2", at_s=at_s))
    [change] = changes(row, AGREED, now_us={Side.BLOB: 300 * SECOND, Side.VAST: 270 * SECOND})
    assert change.at is not None
    assert change.at.at_us == 270 * SECOND


_ETAGS = st.sampled_from(["", "B", "V", "X"])
_ENTRIES = st.none() | st.builds(ListEntry, st.just("k"), _ETAGS, st.integers(1, 2), st.builds(Stamp, st.integers(198, 201)))
_BASES = st.none() | st.builds(
    Base,
    blob_etag=_ETAGS,
    vast_etag=_ETAGS,
    size_bytes=st.integers(1, 2),
    deleted=st.booleans(),
    vast_as_of_us=st.just(1_000_200),
)


@given(_ENTRIES, _ENTRIES, _BASES)
def test_what_the_fast_look_lets_pass_is_in_step(blob: ListEntry | None, vast: ListEntry | None, base: Base | None) -> None:
    """A row that is not looked at closely is one of which ``drift`` says nothing."""
    if not out_of_step(Batch(["k"], [blob], [vast]), [base]):
        assert drift(Row("k", blob, vast), base) is None


@given(st.lists(st.tuples(_ENTRIES, _ENTRIES, _BASES), max_size=4))
def test_packed_bases_are_compared_as_decoded_ones(rows: list[tuple[ListEntry | None, ListEntry | None, Base | None]]) -> None:
    """The rows that ``drift`` has to look at are the same ones, decoded or not."""
    batch = Batch(["k"] * len(rows), [blob for blob, _, _ in rows], [vast for _, vast, _ in rows])
    packed = PackedBases([pack_base(base) if base is not None else b"" for _, _, base in rows])
    assert out_of_step(batch, packed) == out_of_step(batch, list(packed))
