"""Names: reversible, injective, legal, within limits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import keys
from federation.errors import Park
from federation.keys import AZURE_BLOB, QUOTE, VAST_COMMON, VAST_NATIVE, NamePolicy
from federation.model import Side

POLICIES = [AZURE_BLOB, VAST_COMMON, VAST_NATIVE]
TRICKY = f'{QUOTE}\uff0e\uff0f\uff1a\uff3c\u2401\u2421\u2400./\\:"ab \x01\x7f\x00\n\u00e9\u0301'
texts = st.one_of(st.text(alphabet=TRICKY, max_size=14), st.text(max_size=10))
each_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)


def is_legal(name: str, policy: NamePolicy) -> bool:
    """The rules of a policy, said independently of its escaping."""
    segments = name.split("/")
    return not (
        any(char in name for char in policy.illegal)
        or (policy.trailing_dots and any(segment.endswith(".") for segment in segments))
        or (policy.dot_segments and {".", ".."} & set(segments))
        or (policy.empty_segments and ("//" in name or name.startswith("/")))
    )


@each_policy
@settings(max_examples=600)
@given(key=texts)
def test_decode_inverts_encode(policy: NamePolicy, key: str) -> None:
    """decode(encode(key)) == key, so no two keys share a name; and every name is legal."""
    name = policy.escape(key)
    assert policy.unescape(name) == key
    assert is_legal(name, policy)


@each_policy
@settings(max_examples=600)
@given(name=texts.filter(bool))
def test_every_name_has_its_key_or_none(policy: NamePolicy, name: str) -> None:
    """A name seen on a side either has a key that addresses exactly that name, or is refused: never another object's key."""
    try:
        key = keys.decode(name, policy)
    except Park:
        assert not is_legal(name, policy) or policy is VAST_COMMON  # there, one odd kind of legal name has no key either
        return
    assert policy.escape(key) == name
    assert is_legal(name, policy)


@each_policy
@settings(max_examples=600)
@given(prefix=texts, rest=texts)
def test_server_prefix_begins_every_name_below(policy: NamePolicy, prefix: str, rest: str) -> None:
    """What is asked of the server is never narrower than what is wanted."""
    assert policy.escape(prefix + rest).startswith(keys.server_prefix(prefix, policy))


@pytest.mark.parametrize(
    ("policy", "key", "name"),
    [
        pytest.param(AZURE_BLOB, "plain/Key-1.txt", "plain/Key-1.txt", id="plain is itself"),
        pytest.param(AZURE_BLOB, "a\\b", "a\uff3cb", id="backslash"),
        pytest.param(AZURE_BLOB, "a\uff3cb", f"a{QUOTE}\uff3cb", id="a real full-width backslash is quoted"),
        pytest.param(AZURE_BLOB, "dir./f..", "dir\uff0e/f.\uff0e", id="trailing dots"),
        pytest.param(AZURE_BLOB, "../x", ".\uff0e/x", id="dot segments end with a dot"),
        pytest.param(AZURE_BLOB, "dir/", "dir/", id="a folder marker stays"),
        pytest.param(AZURE_BLOB, "a\x01\x7f", "a\u2401\u2421", id="control pictures"),
        pytest.param(AZURE_BLOB, "a:b", "a:b", id="a colon is legal on Blob"),
        pytest.param(VAST_COMMON, "a:b", "a\uff1ab", id="a colon is not on SMB"),
        pytest.param(VAST_COMMON, "x//y", "x/\uff0fy", id="empty segment"),
        pytest.param(VAST_COMMON, "/x", "\uff0fx", id="leading slash"),
        pytest.param(VAST_COMMON, "dir/", "dir/", id="a folder marker stays on VAST"),
        pytest.param(VAST_COMMON, "./..", "\uff0e/.\uff0e", id="dot segments"),
        pytest.param(VAST_COMMON, "file.", "file.", id="a trailing dot is legal on VAST"),
        pytest.param(VAST_COMMON, f"{QUOTE}a", f"{QUOTE}a", id="a quote before nothing special stays"),
        pytest.param(VAST_NATIVE, 'a:b//c"', 'a:b//c"', id="native takes all"),
    ],
)
def test_names(policy: NamePolicy, key: str, name: str) -> None:
    """The scheme, by example."""
    assert keys.encode(key, policy) == name
    assert keys.decode(name, policy) == key


def test_unicode_forms_stay_apart() -> None:
    """NFC and NFD of one word are two keys and two names."""
    for policy in POLICIES:
        assert keys.encode("\u00e9", policy) != keys.encode("e\u0301", policy)


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        pytest.param(AZURE_BLOB, "", id="empty"),
        pytest.param(AZURE_BLOB, "\ud800", id="lone surrogate"),
        pytest.param(AZURE_BLOB, "x" * 1025, id="1025 characters on Blob"),
        pytest.param(AZURE_BLOB, "a/" * 254 + "b", id="255 segments on Blob"),
        pytest.param(VAST_NATIVE, "é" * 513, id="1026 bytes on S3"),
        pytest.param(VAST_COMMON, "x/" + "y" * 256, id="a component of 256"),
    ],
)
def test_unrepresentable_keys_are_parked(policy: NamePolicy, key: str) -> None:
    """What a side cannot hold is Park with the reason "unrepresentable"."""
    with pytest.raises(Park) as error:
        keys.encode(key, policy)
    assert error.value.reason == "unrepresentable"


@pytest.mark.parametrize(
    ("policy", "key"),
    [(AZURE_BLOB, "é" * 1024), (AZURE_BLOB, "a/" * 253 + "b"), (VAST_NATIVE, "é" * 512), (VAST_COMMON, "y" * 255)],
)
def test_limits_are_inclusive(policy: NamePolicy, key: str) -> None:
    """A name at the limit is fine."""
    assert keys.decode(keys.encode(key, policy), policy) == key


def test_prefix_counts_and_is_stripped() -> None:
    """The pair's prefix is part of the name, of its limits, and never of the key."""
    assert keys.encode("k", AZURE_BLOB, prefix="p/") == "p/k"
    assert keys.decode("p/k", AZURE_BLOB, prefix="p/") == "k"
    for name in ("q/k", "p/"):
        with pytest.raises(Park):
            keys.decode(name, AZURE_BLOB, prefix="p/")
    with pytest.raises(Park):
        keys.encode("x" * 1023, AZURE_BLOB, prefix="p/")


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
        ("snapshot/x", False),
    ],
)
def test_excluded(key: str, out: bool) -> None:
    """The plane's and VAST's own names at the root are never synchronised; the same words elsewhere are the users'."""
    assert keys.excluded(key) is out


def test_policy_of_a_side() -> None:
    """The setting chooses VAST's policy and never Blob's."""
    assert keys.policy_for(Side.BLOB, "native") is AZURE_BLOB
    assert keys.policy_for(Side.VAST) is VAST_COMMON
    assert keys.policy_for(Side.VAST, "native") is VAST_NATIVE
