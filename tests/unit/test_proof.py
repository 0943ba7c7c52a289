"""What proves that contents are equal, or that an object is our own copy; and what does not."""

from __future__ import annotations

import pytest

from federation.model import Base, OriginStamp, Present, Side, Stamp, Version
from federation.rules.proof import content_as_agreed, copy_of, proved_copy, same_content

WHEN = Stamp(1_700_000_000_000_000)


def obj(etag: str = "e", *, size: int = 3, md5: str | None = None, origin: OriginStamp | None = None) -> Present:
    """An object with that much known of it."""
    return Present(Version(etag, size, WHEN, md5=md5), origin=origin)


def stamp(side: Side, *, etag: str = "peer", md5: str | None = "m") -> OriginStamp:
    """Our mark on a copy of a version of *side*."""
    return OriginStamp(side, etag, WHEN, md5, "")


@pytest.mark.parametrize(
    ("present", "proved"),
    [
        (obj(md5="m"), False),
        (obj(md5="m", origin=stamp(Side.BLOB)), True),
        (obj(md5="other", origin=stamp(Side.BLOB)), False),
        (obj(md5=None, origin=stamp(Side.BLOB)), False),
        (obj(md5="m", origin=stamp(Side.BLOB, md5=None)), False),
        (obj(md5=None, origin=stamp(Side.BLOB, md5=None)), False),
    ],
    ids=["no_stamp", "fits", "content_changed_under_it", "own_hash_unknown", "stamp_without_hash", "nothing_equals_nothing"],
)
def test_a_stamp_proves_a_copy_only_while_the_present_hash_fits(present: Present, proved: bool) -> None:
    """A file written over NFS keeps its metadata, so the stamp alone says nothing."""
    assert proved_copy(present) is proved
    assert copy_of(present, Side.BLOB) is proved
    assert copy_of(present, Side.VAST) is False


@pytest.mark.parametrize(
    ("one", "two", "equal"),
    [
        (obj(md5="m"), obj(md5="m"), True),
        (obj(md5="m"), obj(md5="n"), False),
        (obj(size=3, md5="m"), obj(size=4, md5="m"), False),
        (obj(size=3), obj(size=4), False),
        (obj(size=0), obj(size=0), True),
        (obj(), obj(), None),
        (obj(md5="m"), obj(), None),
        (obj("same"), obj("same"), None),
    ],
    ids=["hashes", "other_hashes", "sizes_first", "other_sizes", "empty", "size_alone", "one_hash", "etags_of_two_kinds"],
)
def test_equality_is_proved_or_not_known(one: Present, two: Present, equal: bool | None) -> None:
    """Sizes prove difference only, and ETags of the two services are never compared."""
    assert same_content(one, two) is equal
    assert same_content(two, one) is equal


@pytest.mark.parametrize(
    ("names", "stamped", "own", "equal"),
    [
        ("source", "m", "m", True),
        ("older", "m", "m", None),
        ("source", "m", None, None),
        ("source", "m", "changed", None),
        ("source", None, None, None),
    ],
    ids=["proved", "copy_of_an_older_version", "own_hash_unknown", "changed_under_the_stamp", "never_hashed"],
)
@pytest.mark.parametrize("source", list(Side), ids=str)
def test_our_copy_proves_equality_with_the_very_version_it_names(
    source: Side, names: str, stamped: str | None, own: str | None, equal: bool | None
) -> None:
    """Where the source shows no hash, the stamp's ETag stands for its content, as long as the copy itself is proved."""
    here = obj("source")
    there = obj("copy", md5=own, origin=stamp(source, etag=names, md5=stamped))
    blob, vast = (here, there) if source is Side.BLOB else (there, here)
    assert same_content(blob, vast) is equal


def test_a_stamp_that_names_its_own_side_proves_nothing_of_the_peer() -> None:
    """A copy of a Blob version found on Blob says nothing about VAST."""
    assert same_content(obj("copy", md5="m", origin=stamp(Side.BLOB, etag="v")), obj("v")) is None


@pytest.mark.parametrize(
    ("present", "base", "agreed"),
    [
        (obj(md5="m"), Base(md5="m", size_bytes=3), True),
        (obj(md5="n"), Base(md5="m", size_bytes=3), False),
        (obj(md5=None), Base(md5="m", size_bytes=3), False),
        (obj(md5="m"), Base(md5=None, size_bytes=3), False),
        (obj(md5=None), Base(md5=None, size_bytes=3), False),
        (obj(size=0), Base(md5=None, size_bytes=0), True),
        (obj(size=0, md5="m"), Base(md5=None, size_bytes=0), True),
        (obj(size=0), Base(md5="m", size_bytes=0), True),
        (obj(size=0), Base(md5="m", size_bytes=3), False),
        (obj(size=3), Base(md5=None, size_bytes=0), False),
        (obj(md5="m", size=4), Base(md5="m", size_bytes=3), False),
    ],
    ids=[
        "same",
        "other",
        "not_hashed",
        "base_not_hashed",
        "neither_hashed",
        "still_empty",
        "empty_hashed_now",
        "empty_hashed_then",
        "emptied",
        "filled",
        "grown_beside_its_hash",
    ],
)
def test_content_is_the_agreed_one_only_by_hash_or_by_being_empty(present: Present, base: Base, agreed: bool) -> None:
    """An ETag that moved without proof of equal content is a change."""
    assert content_as_agreed(present, base) is agreed
