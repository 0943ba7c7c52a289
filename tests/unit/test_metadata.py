"""Metadata between the sides, and the origin stamp."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import metadata
from federation.model import Metadata, OriginStamp, Side, Stamp, StampOrigin

BLOB_NAME = re.compile(r"[a-z_][a-z0-9_]*\Z")
S3_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+\Z")
names = (
    st.one_of(st.text(alphabet="ax2d5f-_019.é\0", min_size=1, max_size=14), st.text(min_size=1, max_size=8))
    .map(str.lower)
    .filter(lambda name: name == name.lower())
)
values = st.one_of(st.text(max_size=20), st.text(alphabet="utf-8'%20 ", max_size=12))
stamps = st.builds(
    OriginStamp,
    side=st.sampled_from(Side),
    etag=st.text(alphabet='0x8DAF-";% é', min_size=1, max_size=40),
    written=st.builds(Stamp, st.integers(0, 10**17), st.sampled_from([1, 1000, 1_000_000]), st.sampled_from(StampOrigin)),
    md5=st.one_of(st.none(), st.binary(min_size=16, max_size=16).map(bytes.hex)),
    key_digest=st.binary(min_size=8, max_size=8).map(bytes.hex),
)
each_side = pytest.mark.parametrize("side", Side)


@each_side
@settings(max_examples=600)
@given(name=names)
def test_names_round_trip(side: Side, name: str) -> None:
    """Any common name comes back from either side's form, which that side accepts."""
    stored = metadata.encode_name(name, side)
    assert metadata.decode_name(stored, side) == name
    assert (BLOB_NAME if side is Side.BLOB else S3_NAME).match(stored)


@each_side
@settings(max_examples=600)
@given(one=st.text(alphabet="ax2d5f_01", max_size=12), two=st.text(alphabet="ax2d5f_01", max_size=12))
def test_native_names_stay_apart(side: Side, one: str, two: str) -> None:
    """Two different names that users gave on a side are two common names."""
    assert one == two or metadata.decode_name(one, side) != metadata.decode_name(two, side)


@settings(max_examples=600)
@given(value=values)
def test_values_round_trip(value: str) -> None:
    """Any value comes back from a plain ASCII header value."""
    stored = metadata.encode_value(value)
    assert metadata.decode_value(stored) == value
    assert stored.isascii()
    assert stored.isprintable()
    assert stored == stored.strip()


@each_side
@settings(max_examples=300)
@given(user=st.dictionaries(names, values, max_size=5), stamp=st.one_of(st.none(), stamps))
def test_metadata_round_trip(side: Side, user: dict[str, str], stamp: OriginStamp | None) -> None:
    """Metadata and stamp come back whole from either side, and the stamp is never user metadata."""
    common = Metadata(content_type="text/plain", cache_control="no-cache", user=tuple(sorted(user.items())))
    stored = metadata.to_side(common, stamp, side)
    back, found = metadata.from_side(stored.headers, stored.user, side)
    if not stored.lossy:
        assert back == common
        assert found == stamp
        assert metadata.digest(back) == metadata.digest(common)


def test_names_by_example() -> None:
    """A hyphen on S3 is an underscore on Blob, and back; ``mtime`` is left as it is."""
    assert metadata.encode_name("with-hyphen", Side.BLOB) == "with_hyphen"
    assert metadata.decode_name("hdi_isfolder", Side.BLOB) == "hdi-isfolder"
    assert metadata.decode_name("MixedCase", Side.BLOB) == "mixedcase"
    assert metadata.encode_name("under_score", Side.BLOB) == "under_x5f_score"
    assert metadata.encode_name("1st.part", Side.BLOB) == "_x31_st_x2e_part"
    assert metadata.encode_name("mtime", Side.BLOB) == metadata.encode_name("mtime", Side.VAST) == "mtime"


def test_values_by_example() -> None:
    """Plain values stay plain, also with percent signs; others are RFC 8187 values."""
    assert metadata.encode_value("100%25 of it") == "100%25 of it"
    assert metadata.encode_value("grün") == "utf-8''gr%C3%BCn"
    assert metadata.encode_value("utf-8''x") == "utf-8''utf-8%27%27x"
    assert metadata.encode_value("") == "utf-8''"


@each_side
def test_too_much_is_left_out(side: Side) -> None:
    """User metadata beyond the side's limit is left out and said to be lossy; what is kept is within it."""
    user = tuple((f"n{i:04d}", "v" * 100) for i in range(200))
    stored = metadata.to_side(Metadata(user=user), None, side)
    assert stored.lossy
    size = sum(len(name) + len(value) for name, value in stored.user.items())
    assert metadata.FORMS[side].limit_bytes - 110 < size <= metadata.FORMS[side].limit_bytes


@each_side
def test_the_stamp_yields_to_users(side: Side) -> None:
    """Where both do not fit, the user's metadata stays and the stamp goes, which is no loss."""
    room = metadata.FORMS[side].limit_bytes
    stamp = OriginStamp(Side.VAST, "e", Stamp(1), None, "0" * 16)
    stored = metadata.to_side(Metadata(user=(("n", "v" * (room - 50)),)), stamp, side)
    assert not stored.lossy
    assert list(stored.user) == ["n"]


def test_headers_that_no_side_takes_are_lossy() -> None:
    """A header with characters outside ASCII cannot be sent: left out, lossy."""
    stored = metadata.to_side(Metadata(content_disposition='attachment; filename="ü"'), None, Side.VAST)
    assert stored.lossy
    assert stored.headers == {}


def test_a_user_cannot_forge_a_stamp_by_copying_names() -> None:
    """An entry under the stamp's own name is never written from user metadata."""
    stored = metadata.to_side(Metadata(user=(("fedplane-origin", "1;blob"),)), None, Side.BLOB)
    assert stored.lossy
    assert stored.user == {}


@given(stamp=stamps)
def test_stamp_round_trip(stamp: OriginStamp) -> None:
    """A stamp comes back from its text, which is a plain header value."""
    text = metadata.format_stamp(stamp)
    assert metadata.parse_stamp(text) == stamp
    assert metadata.encode_value(text) == text


GOOD = "1;blob;0x8D;5;1000000;event;-;" + "0" * 16


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        GOOD.replace("1;", "2;", 1),
        GOOD.replace("blob", "tape"),
        GOOD.replace(";5;", ";five;"),
        GOOD.replace(";5;", f";{'9' * 30};"),
        GOOD.replace("event", "rumour"),
        GOOD.replace(";-;", ";abc;"),
        GOOD[:-1],
        GOOD + ";more",
        "utf-8''" + GOOD,
    ],
)
def test_malformed_stamp_is_none(text: str) -> None:
    """Anything that ``format_stamp`` cannot have written is no stamp."""
    assert metadata.parse_stamp(GOOD) is not None
    assert metadata.parse_stamp(text) is None


def test_digest_sees_meaning_only() -> None:
    """The services' default types count as none, order of entries does not count, anything else does."""
    plain = Metadata(user=(("a", "1"), ("b", "2")))
    same = [replace(plain, content_type="binary/octet-stream"), replace(plain, content_type="application/octet-stream")]
    same.append(replace(plain, user=tuple(reversed(plain.user))))
    assert {metadata.digest(one) for one in same} == {metadata.digest(plain)}
    different = [
        Metadata(),
        replace(plain, content_type="text/plain"),
        replace(plain, cache_control="text/plain"),
        replace(plain, user=(("a", "12"), ("b", ""))),
        replace(plain, user=(("a1", ""), ("b", "2"))),
    ]
    assert len({metadata.digest(one) for one in [plain, *different]}) == 6
    assert len(metadata.digest(plain)) == 8


def test_key_digest_is_short_and_stable() -> None:
    """16 hexadecimal digits, the same in every process."""
    assert metadata.key_digest("a/key") == metadata.key_digest("a/key")
    assert re.fullmatch(r"[0-9a-f]{16}", metadata.key_digest("a/key"))
    assert metadata.key_digest("a/key") != metadata.key_digest("a/kez")
