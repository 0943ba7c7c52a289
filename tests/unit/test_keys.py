"""Names: reversible, injective, legal, within limits."""

from __future__ import annotations

import itertools
import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from federation import keys
from federation.errors import Park
from federation.keys import AZURE_BLOB, QUOTE, VAST_COMMON, VAST_NATIVE, NamePolicy
from federation.model import PRESERVED_PREFIX, Side

POLICIES = [AZURE_BLOB, VAST_COMMON, VAST_NATIVE]
TRICKY = f'{QUOTE}\uff0e\uff0f\uff1a\uff3c\u2401\u2421\u2400./\\:"ab \x01\x7f\x00\n\x85\x90\ufdd0\ufffd\u00e9\u0301\U0001fffe'
texts = st.one_of(st.text(alphabet=TRICKY, max_size=14), st.text(max_size=10))
each_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)


def fault(name: str, policy: NamePolicy) -> str:
    """What the facts say against *name*; empty when it is legal. Written from facts/azure.md 3.4 and facts/vast.md 3 and 4."""
    segments = name.split("/")
    utf16 = [len(segment.encode("utf-16-le", "surrogatepass")) // 2 for segment in segments]
    length = sum(utf16) + len(segments) - 1
    if not name:
        return "empty"
    if any(unicodedata.category(char) == "Cs" for char in name):
        return "lone surrogate"
    if policy is AZURE_BLOB:
        faults = {
            "control": re.search(r"[\x00-\x1f\x7f\x81\x8d\x8f\x90\x9d]", name),
            "no character": any(ord(char) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(char) <= 0xFDEF for char in name),
            "backslash": "\\" in name,
            "segment ends in a dot": any(segment[-1:] == "." for segment in segments),
            "more than 1024 characters": length > 1024,
            "more than 254 segments": len(segments) > 254,
        }
    else:
        faults = {"NUL": "\0" in name, "more than 1024 bytes": len(name.encode()) > 1024}
    if policy is VAST_COMMON:
        faults |= {
            "refused over SMB": re.search(r'["\\:|<>*?]', name),
            "no file": name.startswith("/") or "//" in name,
            "special S3 name": "." in segments or ".." in segments,
            "component above 255": max(utf16) > 255,
        }
    return next((what for what, found in faults.items() if found), "")


@each_policy
@settings(max_examples=600)
@given(key=texts)
@example(key="/.")
@example(key="././/.")
def test_decode_inverts_encode(policy: NamePolicy, key: str) -> None:
    """decode(encode(key)) == key, and the name is legal; what has no legal name is parked as unrepresentable."""
    try:
        name = keys.encode(key, policy)
    except Park as parked:
        found = (parked.reason, bool(fault(policy.escape(key), policy)))
        assert found == ("unrepresentable", True)
        return
    assert keys.decode(name, policy) == key
    assert not fault(name, policy)


@each_policy
@settings(max_examples=600)
@given(name=texts)
def test_every_legal_name_has_its_key(policy: NamePolicy, name: str) -> None:
    """A name seen on a side has a key that addresses exactly that name; an illegal one never has another object's key."""
    try:
        key = keys.decode(name, policy)
    except Park as parked:
        found = (parked.reason, bool(fault(name, policy)))
        assert found == ("unrepresentable", True)
        return
    assert policy.escape(key) == name
    assert bool(fault(name, policy)) == bool(policy.refused and policy.refused.search(name))


@pytest.mark.parametrize(
    ("policy", "alphabet"),
    [
        pytest.param(AZURE_BLOB, f"{QUOTE}./\uff0e\\\uff3c\x01\u2401", id="blob"),
        pytest.param(VAST_COMMON, f"{QUOTE}./\uff0e\uff0f:\uff1a", id="common"),
        pytest.param(VAST_NATIVE, f"{QUOTE}\0\u2400./\uff0f", id="native"),
    ],
)
def test_all_short_names_are_a_bijection(policy: NamePolicy, alphabet: str) -> None:
    """Over everything the scheme gives a meaning: no two short keys share a name, each legal name has its key."""
    words = ["".join(word) for size in range(1, 6) for word in itertools.product(alphabet, repeat=size)]
    names = {policy.escape(key) for key in words}
    assert len(names) == len(words)
    assert not [name for name in names if fault(name, policy)]
    lost = [name for name in words if not fault(name, policy) and policy.escape(policy.unescape(name)) != name]
    assert not lost


@each_policy
@settings(max_examples=600)
@given(prefix=texts, rest=texts)
@example(prefix="", rest="\u201b\uff0e")
@example(prefix="a.", rest="b")
@example(prefix="a/", rest="/b")
@example(prefix="a\u201b", rest=":b")
def test_server_prefix_begins_every_name_below(policy: NamePolicy, prefix: str, rest: str) -> None:
    """What is asked of the server is never narrower than what is wanted."""
    assert policy.escape(prefix + rest).startswith(keys.server_prefix(prefix, policy))


@pytest.mark.parametrize(
    ("policy", "prefix", "asked"),
    [
        (AZURE_BLOB, "plain/Key-1", "plain/Key-1"),
        (AZURE_BLOB, "a.b/", "a.b/"),
        (AZURE_BLOB, "a./b", "a"),
        (AZURE_BLOB, "first/second./third", "first/second"),
        (AZURE_BLOB, "a\uff0e", "a"),
        (AZURE_BLOB, "a.b.", "a.b"),
        (AZURE_BLOB, "a\\b", "a"),
        (VAST_COMMON, "a:b", "a"),
        (VAST_COMMON, "a//b", "a/"),
        (VAST_COMMON, "/a", ""),
        (VAST_COMMON, "a/b/", "a/b/"),
        (VAST_COMMON, f"a{QUOTE}b", "a"),
        (VAST_COMMON, "a.", "a"),
        (VAST_NATIVE, 'a:b//".', 'a:b//".'),
    ],
)
def test_server_prefix_is_cut_only_where_escaping_may_begin(policy: NamePolicy, prefix: str, asked: str) -> None:
    """A listing of a part does not read the whole."""
    assert keys.server_prefix(prefix, policy) == asked


@pytest.mark.parametrize(
    ("policy", "key", "name"),
    [
        pytest.param(AZURE_BLOB, "plain/Key-1.txt", "plain/Key-1.txt", id="plain is itself"),
        pytest.param(AZURE_BLOB, "a\\b", "a\uff3cb", id="backslash"),
        pytest.param(AZURE_BLOB, "a\uff3cb", f"a{QUOTE}\uff3cb", id="a real full-width backslash is quoted"),
        pytest.param(AZURE_BLOB, f"a{QUOTE}\\b", f"a{QUOTE * 2}\uff3cb", id="a quote before a backslash is doubled"),
        pytest.param(AZURE_BLOB, f"a{QUOTE}\uff3cb", f"a{QUOTE * 3}\uff3cb", id="a quote before a real replacement"),
        pytest.param(AZURE_BLOB, "dir./f..", "dir\uff0e/f.\uff0e", id="trailing dots"),
        pytest.param(AZURE_BLOB, "f\uff0e", f"f{QUOTE}\uff0e", id="a real trailing full-width dot"),
        pytest.param(AZURE_BLOB, "f\uff0ex", "f\uff0ex", id="a full-width dot elsewhere"),
        pytest.param(AZURE_BLOB, "../x", ".\uff0e/x", id="dot segments end with a dot"),
        pytest.param(AZURE_BLOB, "dir/", "dir/", id="a folder marker stays"),
        pytest.param(AZURE_BLOB, "/a//b", "/a//b", id="Blob takes empty segments"),
        pytest.param(AZURE_BLOB, "a\0\x01\x1f\x7f", "a\u2400\u2401\u241f\u2421", id="control pictures"),
        pytest.param(AZURE_BLOB, 'a:b"<>|*?', 'a:b"<>|*?', id="what SMB refuses is legal on Blob"),
        pytest.param(AZURE_BLOB, "a\x85\ue000\ufffd", "a\x85\ue000\ufffd", id="odd characters that Azure takes"),
        pytest.param(
            VAST_COMMON, '"\\:|<>*?\0', "\uff02\uff3c\uff1a\uff5c\uff1c\uff1e\uff0a\uff1f\u2400", id="all that SMB refuses"
        ),
        pytest.param(VAST_COMMON, "Icon\r", "Icon\r", id="NFS clients write control characters"),
        pytest.param(VAST_COMMON, "x//y", "x/\uff0fy", id="empty segment"),
        pytest.param(VAST_COMMON, "x///y", "x/\uff0f/y", id="two empty segments"),
        pytest.param(VAST_COMMON, "/x", "\uff0fx", id="leading slash"),
        pytest.param(VAST_COMMON, "/.", "\uff0f.", id="a dot after a replaced slash is no segment"),
        pytest.param(VAST_COMMON, "x/\uff0fy", f"x/{QUOTE}\uff0fy", id="a real full-width slash begins a segment"),
        pytest.param(VAST_COMMON, "x\uff0fy", "x\uff0fy", id="a full-width slash elsewhere"),
        pytest.param(VAST_COMMON, "dir/", "dir/", id="a folder marker stays on VAST"),
        pytest.param(VAST_COMMON, "./../...", "\uff0e/\uff0e\uff0e/...", id="dot segments"),
        pytest.param(VAST_COMMON, "\uff0e", f"{QUOTE}\uff0e", id="a real full-width dot segment"),
        pytest.param(VAST_COMMON, "\uff0e\uff0e", f"{QUOTE}\uff0e{QUOTE}\uff0e", id="two real full-width dots"),
        pytest.param(VAST_COMMON, "file.", "file.", id="a trailing dot is legal on VAST"),
        pytest.param(VAST_COMMON, f"{QUOTE}a", f"{QUOTE}a", id="a quote before nothing special stays"),
        pytest.param(VAST_NATIVE, 'a:b//c"/../.', 'a:b//c"/../.', id="native takes all"),
        pytest.param(VAST_NATIVE, "a\0", "a\u2400", id="but NUL"),
    ],
)
def test_names(policy: NamePolicy, key: str, name: str) -> None:
    """The scheme, by example."""
    assert keys.encode(key, policy) == name
    assert keys.decode(name, policy) == key


def test_unicode_forms_and_case_stay_apart() -> None:
    """NFC, NFD and the other case of one word are four keys and four names."""
    words = ["\u00e9", "e\u0301", "\u00c9", "E\u0301"]
    for policy in POLICIES:
        assert len({keys.encode(word, policy) for word in words}) == 4


@pytest.mark.parametrize(
    ("policy", "key", "limit"),
    [
        pytest.param(AZURE_BLOB, "", "the key is empty", id="empty"),
        pytest.param(AZURE_BLOB, "\ud800", "the key holds lone surrogates", id="lone surrogate"),
        pytest.param(VAST_NATIVE, "a\udfff", "the key holds lone surrogates", id="the other kind of surrogate"),
        pytest.param(AZURE_BLOB, "x" * 1025, "the name has 1025 characters, 1024 are allowed", id="characters on Blob"),
        pytest.param(AZURE_BLOB, "\U0001f600" * 513, "the name has 1026 characters, 1024 are allowed", id="a UTF-16 pair is two"),
        pytest.param(AZURE_BLOB, "a/" * 254 + "b", "the name has 255 segments, 254 are allowed", id="segments on Blob"),
        pytest.param(
            AZURE_BLOB, "a\x81", "the name has U+0081, which the service refuses", id="control character without replacement"
        ),
        pytest.param(AZURE_BLOB, "a\ufdef", "the name has U+FDEF, which the service refuses", id="no character"),
        pytest.param(AZURE_BLOB, "a\uffff", "the name has U+FFFF, which the service refuses", id="no character, end of plane 0"),
        pytest.param(
            AZURE_BLOB, "a\U0010fffe", "the name has U+10FFFE, which the service refuses", id="no character, end of plane 16"
        ),
        pytest.param(VAST_NATIVE, "é" * 513, "the name has 1026 bytes, 1024 are allowed", id="bytes on S3"),
        pytest.param(
            VAST_COMMON, "a/" * 300 + ":" * 150, "the name has 1050 bytes, 1024 are allowed", id="the name counts, not the key"
        ),
        pytest.param(
            VAST_COMMON, "x/" + "y" * 256 + "/z", "the name has 256 characters in one segment, 255 are allowed", id="a component"
        ),
        pytest.param(
            VAST_COMMON,
            "\U0001f600" * 128,
            "the name has 256 characters in one segment, 255 are allowed",
            id="a component in UTF-16",
        ),
    ],
)
def test_unrepresentable_keys_are_parked(policy: NamePolicy, key: str, limit: str) -> None:
    """What a side cannot hold is Park with the reason "unrepresentable", the key, and a text that names side and limit."""
    with pytest.raises(Park) as error:
        keys.encode(key, policy)
    assert (error.value.reason, error.value.key) == ("unrepresentable", key)
    assert str(error.value) == f"{policy.name}: {limit}"


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        (AZURE_BLOB, "é" * 1024),
        (AZURE_BLOB, "\U0001f600" * 512),
        (AZURE_BLOB, "a/" * 253 + "b"),
        (VAST_NATIVE, "é" * 512),
        (VAST_NATIVE, "/" * 1024),
        (VAST_COMMON, "y" * 255 + "/" + "é" * 255),
    ],
)
def test_limits_are_inclusive(policy: NamePolicy, key: str) -> None:
    """A name at the limit is fine."""
    assert keys.decode(keys.encode(key, policy), policy) == key


def test_prefix_counts_and_is_stripped() -> None:
    """The pair's prefix is part of the name, of its limits, and never of the key; nor is it ever escaped."""
    assert keys.encode("k:", VAST_COMMON, prefix="p:/") == "p:/k\uff1a"
    assert keys.decode("p:/k\uff1a", VAST_COMMON, prefix="p:/") == "k:"
    with pytest.raises(Park) as error:
        keys.encode("x" * 1023, AZURE_BLOB, prefix="p/")
    assert "1025 characters" in str(error.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("q/k", "the name is not below the prefix 'p/'"),
        ("p/", "the name is not below the prefix 'p/'"),
        ("p/a:b", "the name is not legal under this policy"),
        ("p/caf\udce9", "the name is not valid UTF-8"),
    ],
)
def test_names_without_a_key_are_parked(name: str, why: str) -> None:
    """Names of other places, the prefix itself, illegal names and bytes that are no text: said with the name and the reason."""
    with pytest.raises(Park) as error:
        keys.decode(name, VAST_COMMON, prefix="p/")
    assert (error.value.reason, error.value.key) == ("unrepresentable", name)
    assert str(error.value) == f"{VAST_COMMON.name}: {why}"


def test_a_prefix_must_be_legal_as_it_stands() -> None:
    """It is never escaped, so a setting is judged before it is used."""
    assert keys.legal("data/\uff1a/", VAST_COMMON)
    assert not keys.legal("data:/", VAST_COMMON)
    assert not keys.legal("v1./", AZURE_BLOB)


@pytest.mark.parametrize(
    ("key", "out"),
    [
        (".federation/conflicts/x", True),
        (".snapshot/daily/x", True),
        (".snapshot", True),
        (".vast_audit_dir/x", True),
        (".vast_removed_protected_paths", True),
        ("x/.federation/y", False),
        (".federation", False),
        (".snapshots", False),
        ("snapshot/x", False),
    ],
)
def test_excluded(key: str, out: bool) -> None:
    """The plane's and VAST's own names at the root are never synchronised; the same words elsewhere are the users'."""
    assert keys.excluded(key) is out


@pytest.mark.parametrize(
    ("prefix", "all_of_it"),
    [
        (".federation/", True),
        (".federation/conflicts/x", True),
        (".snapshot/", True),
        (".vast", True),
        (".snapshot", False),
        (".federation", False),
        (".fed", False),
        (".", False),
        ("", False),
    ],
)
def test_a_prefix_below_which_nothing_is_a_user_s(prefix: str, all_of_it: bool) -> None:
    """One that begins a user's key too is none, though it also begins names that are not synchronised."""
    assert keys.excluded_below(prefix) is all_of_it


@each_policy
@given(head=st.sampled_from([PRESERVED_PREFIX, ".snapshot", ".snapshot/", ".vast", ".vas", "x"]), rest=texts)
def test_a_name_is_excluded_as_its_key_is(policy: NamePolicy, head: str, rest: str) -> None:
    """No escaping leads into or out of what is never synchronised, so names can be tested before they are decoded."""
    assert keys.excluded(policy.escape(head + rest)) == keys.excluded(head + rest)


def test_policy_of_a_side() -> None:
    """The setting chooses VAST's policy and never Blob's; each has the name that people read."""
    assert keys.policy_for(Side.BLOB, "native") is AZURE_BLOB
    assert keys.policy_for(Side.VAST) is VAST_COMMON
    assert keys.policy_for(Side.VAST, "native") is VAST_NATIVE
    names = [policy.name for policy in POLICIES]
    assert names == ["Azure blob name", "VAST name (common)", "VAST name (native)"]
