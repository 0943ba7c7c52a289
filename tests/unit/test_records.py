"""Packed records: exact, compact, and refused when they are not ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import UsageError
from federation.model import Base, Stamp, StampOrigin
from federation.state.records import PackedBases, agrees, pack_base, pack_etag, unpack_base, unpack_etag

_MD5 = st.binary(min_size=16, max_size=16).map(bytes.hex)
_ETAGS = st.one_of(
    st.just(""),
    st.integers(0, 2**64 - 1).map(lambda n: f"0x{n:X}"),
    st.integers(0, 2**60 - 1).map(lambda n: f"0x{n:015X}"),
    _MD5,
    st.tuples(_MD5, st.integers(1, 10_000)).map(lambda pair: f"{pair[0]}-{pair[1]}"),
    st.text(max_size=40),
)
_BASES = st.builds(
    Base,
    blob_etag=_ETAGS,
    vast_etag=_ETAGS,
    md5=st.none() | _MD5,
    metadata_digest=st.binary(min_size=0, max_size=8),
    written=st.builds(Stamp, st.integers(0, 2**55), st.sampled_from([1, 1_000, 1_000_000]), st.sampled_from(list(StampOrigin))),
    size_bytes=st.integers(0, 2**50),
    deleted=st.booleans(),
    lossy=st.booleans(),
    vast_as_of_us=st.integers(0, 2**47).map(lambda ms: ms * 1_000),
)


@given(_ETAGS)
def test_any_etag_survives(etag: str) -> None:
    """What Azure, S3 or any other server calls a version comes back exactly."""
    assert unpack_etag(pack_etag(etag)) == etag


@given(_ETAGS, _ETAGS)
def test_packed_etags_are_equal_only_when_the_etags_are(one: str, two: str) -> None:
    """The scripts compare packed forms, so packing is injective."""
    assert (pack_etag(one) == pack_etag(two)) == (one == two)


@given(_BASES)
def test_any_base_survives(base: Base) -> None:
    """Packing loses nothing."""
    assert unpack_base(pack_base(base)) == base


@pytest.mark.parametrize("year", [-2_000, 1960, 4200, 9999, 12_000])
def test_a_file_may_say_any_time(year: int) -> None:
    """What no record can hold is kept as the nearest that one can; it may not stop the key."""
    told_us = (year - 1970) * 31_556_952 * 1_000_000
    kept_us = unpack_base(pack_base(Base(written=Stamp(told_us)))).written.at_us
    assert kept_us == min(max(0, told_us), 2**56 - 1)


def test_an_ordinary_object_fits_the_compact_encoding() -> None:
    """64 bytes is where Redis gives up its compact hash encoding."""
    md5 = "0cc175b9c0f1b6a831c399e269772661"
    base = Base("0x8DC28A1B2C3D4E5", md5, md5, b"12345678", Stamp(1_763_700_000_123_456, 1), 10**9, vast_as_of_us=10**15)

    assert len(pack_base(base)) <= 64


def test_times_between_milliseconds_are_rounded_down() -> None:
    """What VAST held is known from this moment on: rounded up, a write of a user in between would look like our own."""
    assert unpack_base(pack_base(Base(vast_as_of_us=1_999))).vast_as_of_us == 1_000


@given(_BASES, st.data())
def test_damage_is_refused_with_a_clear_text(base: Base, data: st.DataObject) -> None:
    """A record that was cut short is never read as another base."""
    record = pack_base(base)
    cut = record[: data.draw(st.integers(0, len(record) - 1))]
    with pytest.raises(UsageError, match="base record in Redis"):
        unpack_base(cut)


def test_a_newer_record_is_refused() -> None:
    """An older program must not guess."""
    with pytest.raises(UsageError, match="newer fedplane"):
        unpack_base(b"\x20" + pack_base(Base())[1:])


@st.composite
def _near(draw: st.DrawFn) -> tuple[bytes, str, str, int, int]:
    """A record, whole or with some bytes changed or missing, and a listing that mostly is what it says."""
    base, other = draw(_BASES), draw(_BASES)
    record = bytearray(pack_base(base))
    for at in draw(st.lists(st.integers(0, len(record) - 1), max_size=2)):
        record[at] = draw(st.integers(0, 255))
    cut = draw(st.none() | st.integers(0, len(record)))
    seldom = st.integers(0, 9).map(lambda n: not n)
    return (
        bytes(record[:cut]),
        other.blob_etag if draw(seldom) else base.blob_etag,
        other.vast_etag if draw(seldom) else base.vast_etag,
        other.size_bytes if draw(seldom) else base.size_bytes,
        base.vast_as_of_us + draw(st.integers(-1, 1)),
    )


@given(_near())
def test_a_record_agrees_exactly_when_its_base_does(near: tuple[bytes, str, str, int, int]) -> None:
    """The fast comparison and the one of the decoded record never differ; what cannot be decoded agrees with nothing."""
    record, blob_etag, vast_etag, size_bytes, vast_until_us = near
    try:
        base = unpack_base(record)
    except UsageError:
        base = Base(deleted=True)
    expected = (
        not base.deleted
        and (base.blob_etag, base.vast_etag, base.size_bytes) == (blob_etag, vast_etag, size_bytes)
        and base.vast_as_of_us >= vast_until_us
    )
    assert agrees(record, blob_etag, vast_etag, size_bytes, vast_until_us) == expected


@given(st.lists(st.none() | _BASES, max_size=5))
def test_packed_bases_are_the_bases(bases: list[Base | None]) -> None:
    """In their order, none where there is none, also of a part of them."""
    packed = PackedBases([pack_base(base) if base is not None else b"" for base in bases])
    assert list(packed) == bases
    assert list(packed[1:3]) == bases[1:3]
