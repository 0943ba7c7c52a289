"""Packed records: exact, compact, and refused when they are not ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import UsageError
from federation.model import Base, Stamp, StampOrigin
from federation.state.records import pack_base, pack_etag, unpack_base, unpack_etag

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
