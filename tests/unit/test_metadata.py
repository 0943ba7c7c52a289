"""Metadata between the sides, and the origin stamp."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import metadata
from federation.model import Metadata, OriginStamp, Side, Stamp, StampOrigin

LEGAL_NAME = {Side.BLOB: re.compile(r"[a-z_][a-z0-9_]*\Z"), Side.VAST: re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+\Z")}
LIMIT_BYTES = {Side.BLOB: 8192, Side.VAST: 2048}
RESERVED = {Side.BLOB: "fedplane_origin", Side.VAST: "fedplane-origin"}
HEADERS = {"content_type", "content_encoding", "content_language", "content_disposition", "cache_control"}


def fault(stored: metadata.Stored, side: Side) -> str:
    """What the facts say against sending *stored*; empty when it is legal. From facts/azure.md 3.4 and facts/vast.md 3."""
    values = [*stored.headers.values(), *stored.user.values()]
    faults = {
        "no such header": set(stored.headers) - HEADERS,
        "no C# identifier or no HTTP token": [name for name in stored.user if not LEGAL_NAME[side].match(name)],
        "no header value": [value for value in values if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value)],
        "too large": sum(len(name) + len(value) for name, value in stored.user.items()) > LIMIT_BYTES[side],
    }
    return next((what for what, found in faults.items() if found), "")


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
    assert LEGAL_NAME[side].match(stored)


@pytest.mark.parametrize(("side", "alphabet"), [(Side.BLOB, "x23d_"), (Side.VAST, "x25d-")])
def test_native_names_stay_apart(side: Side, alphabet: str) -> None:
    """Any two names that users gave on a side are two common names, each stored under its own name again."""
    words = ["".join(name) for size in range(1, 7) for name in itertools.product(alphabet, repeat=size)]
    given_names = [name for name in words if LEGAL_NAME[side].match(name)]
    common = [metadata.decode_name(name, side) for name in given_names]
    assert len(set(common)) == len(given_names)
    assert [metadata.encode_name(name, side) for name in common] == given_names


@each_side
@settings(max_examples=600)
@given(value=st.one_of(values, st.text(alphabet="utf-8'%2041bBcCéü ", max_size=16).map("utf-8''".__add__)))
def test_native_values_come_back(side: Side, value: str) -> None:
    """Whatever a user gave as a value, also one that looks encoded, comes back to its side exactly."""
    plain = re.fullmatch(r"[!-~]([ -~]*[!-~])?", value) is not None
    common, _ = metadata.from_side({}, {"n": value}, side)
    [again] = metadata.to_side(common, None, side).user.values()
    assert not plain or again == value
    assert metadata.from_side({}, {"n": again}, side)[0] == common


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
    """Metadata and stamp come back whole from either side, unless that is said to be lossy; what goes out is legal there."""
    common = Metadata(content_type="text/plain", cache_control="no-cache", user=tuple(sorted(user.items())))
    stored = metadata.to_side(common, stamp, side)
    back, found = metadata.from_side(stored.headers, stored.user, side)
    assert not fault(stored, side)
    assert stored.lossy == (back != common)
    assert back == metadata.held(common, side)
    assert set(back.user) <= set(common.user)
    assert found == stamp


big_values = st.one_of(values, st.integers(0, 2100).map("v".__mul__), st.integers(0, 800).map("é".__mul__))
headers = st.fixed_dictionaries({}, optional=dict.fromkeys(sorted(HEADERS), st.one_of(st.none(), values)))


@each_side
@settings(max_examples=300)
@given(user=st.dictionaries(names, big_values, max_size=8), fields=headers, stamp=st.one_of(st.none(), stamps))
def test_what_goes_out_is_legal_however_much_it_is(
    side: Side, user: dict[str, str], fields: dict[str, str | None], stamp: OriginStamp | None
) -> None:
    """Beyond the limits, too, a side is sent only what it takes; what it is sent comes back as it was, the rest is lossy."""
    common = Metadata(**fields, tags=None, user=tuple(sorted(user.items())))
    stored = metadata.to_side(common, stamp, side)
    back, found = metadata.from_side(stored.headers, stored.user, side)
    assert not fault(stored, side)
    assert set(back.user) <= set(common.user)
    assert {name for name in HEADERS if getattr(back, name) not in {getattr(common, name), None}} == set()
    empty_is_none = Metadata(**{name: value or None for name, value in fields.items()}, user=common.user, tags=None)
    assert stored.lossy == (back != empty_is_none)
    assert found in {stamp, None}
    assert (RESERVED[side] in stored.user) == (found is not None)


@each_side
@settings(max_examples=300)
@given(user=st.dictionaries(names, big_values, max_size=8), change=st.dictionaries(names, values, max_size=2))
def test_what_was_left_out_is_not_erased_by_the_way_back(side: Side, user: dict[str, str], change: dict[str, str]) -> None:
    """What a side could not hold stays on the other when the side's version comes back; what it held is the side's to say."""
    rich = Metadata(user=tuple(sorted(user.items())))
    kept = dict(metadata.held(rich, side).user)
    edited = dict(list(kept.items())[1:]) | change
    back = dict(metadata.carried_back(Metadata(user=tuple(sorted(edited.items()))), rich, side).user)
    assert back == {name: value for name, value in user.items() if name not in kept} | edited


def test_nothing_left_out_nothing_carried() -> None:
    """Where the side held everything, its version comes back as it is, removals included."""
    plain = Metadata(content_type="text/plain", user=(("a", "1"), ("b", "2")))
    less = replace(plain, user=(("b", "3"),))
    assert metadata.carried_back(less, plain, Side.VAST) == less
    merged = metadata.carried_back(less, replace(plain, user=(("a", "1"), ("big", "v" * 3000))), Side.VAST)
    assert merged == replace(less, user=(("b", "3"), ("big", "v" * 3000)))


def test_names_by_example() -> None:
    """A hyphen on S3 is an underscore on Blob, and back."""
    assert metadata.encode_name("with-hyphen", Side.BLOB) == "with_hyphen"
    assert metadata.decode_name("hdi_isfolder", Side.BLOB) == "hdi-isfolder"
    assert metadata.decode_name("MixedCase", Side.BLOB) == "mixedcase"
    assert metadata.encode_name("under_score", Side.BLOB) == "under_x5f_score"
    assert metadata.encode_name("1st.part", Side.BLOB) == "_x31_st_x2e_part"
    assert metadata.encode_name("Grün", Side.VAST) == "gr-xfc-n"
    assert metadata.encode_name("a-b_c.d", Side.VAST) == "a-b_c.d"
    assert metadata.encode_name("-x2e-", Side.BLOB) == "_x2d_x2e_"
    assert metadata.encode_name("-x41-", Side.BLOB) == "_x41_"


def test_legal_names_are_themselves() -> None:
    """Every character that a side takes stands for itself there."""
    letters, digits = "abcdefghijklmnopqrstuvwxyz", "0123456789"
    assert metadata.encode_name(letters + digits, Side.BLOB) == letters + digits
    token = f"{digits}!#$%&'*+.^_`|~{letters}"
    assert metadata.encode_name(token, Side.VAST) == token


@pytest.mark.parametrize(
    ("stored", "common"),
    [
        ("a_x31_b", "a-x31-b"),
        ("a_x002e_b", "a-x002e-b"),
        ("a_x110000_b", "a-x110000-b"),
        ("a_x2e", "a-x2e"),
        ("a_x10ffff_b", "a\U0010ffffb"),
        ("_x31_b", "1b"),
    ],
)
def test_only_what_would_have_been_escaped_is_an_escape(stored: str, common: str) -> None:
    """A digit that is legal where it stands, a code spelled otherwise, too large or not closed: the user's own underscores."""
    assert metadata.decode_name(stored, Side.BLOB) == common
    assert metadata.encode_name(common, Side.BLOB) == stored


def test_values_by_example() -> None:
    """Plain values stay plain, also with percent signs; others are RFC 8187 values; what only looks like one is left alone."""
    assert metadata.encode_value("100%25 of it") == "100%25 of it"
    assert metadata.encode_value("grün") == "utf-8''gr%C3%BCn"
    assert metadata.encode_value("utf-8''x") == "utf-8''x"
    assert metadata.encode_value("utf-8''%C3%BC") == "utf-8''utf-8%27%27%25C3%25BC"
    assert metadata.encode_value("") == "utf-8''"
    assert metadata.encode_value("a\tb") == "utf-8''a%09b"
    assert metadata.encode_value(" a/b") == "utf-8''%20a%2Fb"
    assert metadata.encode_value("\udcfc") == "utf-8''%FC"
    assert metadata.decode_value("utf-8''%FC") == "\udcfc"
    assert metadata.decode_value("utf-8''plain") == "utf-8''plain"
    assert metadata.decode_value("utf-8''%zz") == "utf-8''%zz"


@each_side
def test_too_much_is_left_out(side: Side) -> None:
    """User metadata beyond the side's limit is left out and said to be lossy; what is kept is within it."""
    user = tuple((f"n{i:04d}", "v" * 100) for i in range(200))
    stored = metadata.to_side(Metadata(user=user), None, side)
    assert stored.lossy
    assert not fault(stored, side)
    assert len(stored.user) == LIMIT_BYTES[side] // 105
    assert list(stored.user.items()) == list(user)[: len(stored.user)]


@each_side
def test_limits_are_inclusive(side: Side) -> None:
    """Names and values together may be exactly the limit; one byte more is left out, and what is small after it still fits."""
    exactly = Metadata(user=(("n", "v" * (LIMIT_BYTES[side] - 1)),))
    assert metadata.to_side(exactly, None, side).user == dict(exactly.user)
    over = metadata.to_side(Metadata(user=(("n", "v" * LIMIT_BYTES[side]), ("small", "x"))), None, side)
    assert over == metadata.Stored({}, {"small": "x"}, lossy=True)


def test_names_that_differ_only_by_case_are_one() -> None:
    """Both services compare names without case: the second is left out rather than put in the first one's place."""
    stored = metadata.to_side(Metadata(user=(("A", "1"), ("a", "2"))), None, Side.BLOB)
    assert stored == metadata.Stored({}, {"a": "1"}, lossy=True)
    assert metadata.from_side({}, {"CamelCase": "Value"}, Side.BLOB)[0].user == (("camelcase", "Value"),)
    assert metadata.to_side(Metadata(user=(("", "v"),)), None, Side.VAST) == metadata.Stored({}, {}, lossy=True)


@each_side
def test_the_stamp_yields_to_users(side: Side) -> None:
    """Where both do not fit, the user's metadata stays and the stamp goes, which is no loss; one byte less and both fit."""
    stamp = OriginStamp(Side.VAST, "e", Stamp(1), None, "0" * 16)
    room = LIMIT_BYTES[side] - len(RESERVED[side]) - len(metadata.format_stamp(stamp)) - 1
    stored = metadata.to_side(Metadata(user=(("n", "v" * (room + 1)),)), stamp, side)
    assert not stored.lossy
    assert list(stored.user) == ["n"]
    assert list(metadata.to_side(Metadata(user=(("n", "v" * room),)), stamp, side).user) == ["n", RESERVED[side]]


def test_headers_that_no_side_takes_are_lossy() -> None:
    """A header with characters outside ASCII cannot be sent: left out, lossy."""
    stored = metadata.to_side(Metadata(content_disposition='attachment; filename="ü"'), None, Side.VAST)
    assert stored.lossy
    assert stored.headers == {}


@each_side
def test_a_user_cannot_forge_a_stamp_by_copying_names(side: Side) -> None:
    """An entry under the stamp's own name is never written from user metadata, nor read as such."""
    stored = metadata.to_side(Metadata(user=(("fedplane-origin", "1;blob"),)), None, side)
    assert stored == metadata.Stored({}, {}, lossy=True)
    assert metadata.from_side({}, {RESERVED[side].upper(): "1;blob"}, side) == (Metadata(), None)
    assert metadata.to_side(Metadata(user=(("fedplane_origin", "mine"),)), None, side).user != {RESERVED[side]: "mine"}


@given(stamp=stamps)
def test_stamp_round_trip(stamp: OriginStamp) -> None:
    """A stamp comes back from its text, which is a plain header value."""
    text = metadata.format_stamp(stamp)
    assert metadata.parse_stamp(text) == stamp
    assert metadata.encode_value(text) == text


def test_stamp_by_example() -> None:
    """The text is read by later versions: it stays as it is. An ETag that is no text is still an ETag."""
    stamp = OriginStamp(Side.VAST, 'a/b;"c', Stamp(-5, 1, StampOrigin.EVENT), "0" * 32, "f" * 16)
    assert metadata.format_stamp(stamp) == f"1;vast;a%2Fb%3B%22c;-5;1;event;{'0' * 32};{'f' * 16}"
    odd = metadata.parse_stamp(GOOD.replace("0x8D", "%FF"))
    assert odd is not None
    assert odd.etag == "\ufffd"


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


def test_digests_stay_what_they_are() -> None:
    """They are kept in the base and in stamps: another value after an upgrade would make every object look changed."""
    full = Metadata("text/plain", "gzip", "de", "inline", "no-cache", (("a", "\udcfc"), ("b", "é")))
    assert metadata.digest(full).hex() == "783952940565ee86"
    assert metadata.digest(Metadata()).hex() == "0c10a958419765cb"
    assert metadata.key_digest("a/\u00e9/\udcfc") == "c7ce3f7bee1a6a56"


def test_key_digest_is_short_and_stable() -> None:
    """16 hexadecimal digits, the same in every process."""
    assert metadata.key_digest("a/key") == metadata.key_digest("a/key")
    assert re.fullmatch(r"[0-9a-f]{16}", metadata.key_digest("a/key"))
    assert metadata.key_digest("a/key") != metadata.key_digest("a/kez")


@pytest.mark.parametrize("side", list(Side), ids=str)
def test_a_name_of_many_escapes_costs_no_more_than_its_length(monkeypatch: pytest.MonkeyPatch, side: Side) -> None:
    """8 KB of escaped hyphens blocked the engine for seconds, as the square of the length (found by fuzzing)."""
    looks = 0
    code = metadata._CODE

    class Counting:
        def match(self, text: str, at: int) -> re.Match[str] | None:
            nonlocal looks
            looks += 1
            return code.match(text, at)

    monkeypatch.setattr(metadata, "_CODE", Counting())
    name = "x2d-" * 500
    stored = metadata.encode_name(name, side)
    assert metadata.decode_name(stored, side) == name
    assert looks <= 2 * (len(name) + len(stored))


def test_between_two_requests_there_are_the_new_headers_and_the_old_entries() -> None:
    """Headers are set first; tags are no matter of either request."""
    found = Metadata("text/plain", user=(("a", "1"),), tags=(("t", "1"),))
    new = metadata.to_side(Metadata("text/csv", cache_control="no-cache", user=(("a", "2"),)), None, Side.BLOB)
    assert metadata.halfway(found, new) == Metadata("text/csv", cache_control="no-cache", user=(("a", "1"),), tags=(("t", "1"),))
