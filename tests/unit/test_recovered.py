"""What may be taken for the write of a worker that did not live to record it, and whose word a person's word is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from federation.model import Absent, Base, ETagKind, OriginStamp, Present, Side, Stamp, Version
from federation.progress import Held, Lease
from federation.rules.decision import Action, Decision, Reason, Rules
from federation.sync.recovered import recovered
from federation.sync.scene import Scene
from federation.sync.sync_key import _held_for

AT = Stamp(1_700_000_000_000_000)
ETAGS = {ETagKind.OPAQUE: "0x8DC2", ETagKind.MULTIPART: "0cc1-2", ETagKind.FILE_SIDE: "48ed760a74", ETagKind.MD5: "0cc1"}


def seen(source: Side, kind: ETagKind, *, md5: str | None = None, stamp_md5: str | None = None, size_bytes: int = 9) -> Scene:
    """The other side holds something that carries our stamp of *source*'s version "new"."""
    version = Version(ETAGS[kind], size_bytes, AT, kind, md5)
    there = Present(version, origin=OriginStamp(source, "new", AT, stamp_md5, "sealed"))
    here = Absent()
    blob, vast = (here, there) if source is Side.BLOB else (there, here)
    return Scene("k", Lease(0, "t", 1), None, blob, vast, Rules(), 0)


def intent(source: Side) -> Base:
    """What was about to be true."""
    return Base(blob_etag="new", size_bytes=9) if source is Side.BLOB else Base(vast_etag="new", size_bytes=9)


@pytest.mark.parametrize(
    ("source", "scene", "ours"),
    [
        (Side.BLOB, seen(Side.BLOB, ETagKind.MD5, md5="m", stamp_md5="m"), True),
        (Side.BLOB, seen(Side.BLOB, ETagKind.MD5, md5="other", stamp_md5="m"), False),
        (Side.BLOB, seen(Side.BLOB, ETagKind.MULTIPART), True),
        (Side.BLOB, seen(Side.BLOB, ETagKind.MULTIPART, size_bytes=8), False),
        (Side.BLOB, seen(Side.BLOB, ETagKind.MULTIPART, stamp_md5="m"), False),
        (Side.BLOB, seen(Side.BLOB, ETagKind.OPAQUE, stamp_md5="m"), False),
        (Side.BLOB, seen(Side.BLOB, ETagKind.OPAQUE, md5="m", stamp_md5="m"), True),
        (Side.BLOB, seen(Side.BLOB, ETagKind.OPAQUE), True),
        (Side.BLOB, seen(Side.BLOB, ETagKind.OPAQUE, size_bytes=8), False),
        (Side.BLOB, seen(Side.BLOB, ETagKind.OPAQUE, md5="read", stamp_md5="m"), False),
        (Side.BLOB, seen(Side.BLOB, ETagKind.FILE_SIDE), False),
        (Side.BLOB, seen(Side.BLOB, ETagKind.FILE_SIDE, stamp_md5="m"), False),
        (Side.VAST, seen(Side.VAST, ETagKind.OPAQUE, md5="m", stamp_md5="m"), True),
        (Side.VAST, seen(Side.VAST, ETagKind.OPAQUE, md5="m"), True),
        (Side.VAST, seen(Side.VAST, ETagKind.OPAQUE, md5="m", size_bytes=8), False),
        (Side.VAST, seen(Side.VAST, ETagKind.OPAQUE, md5="m", stamp_md5="other"), False),
    ],
    ids=[
        "hash fits",
        "hash does not fit",
        "multipart",
        "multipart of another size",
        "multipart, its hash is known and was not read",
        "no hash, as under a KMS key, and not read",
        "no hash, but it was read, and is the same",
        "no hash, and none was known",
        "no hash, and none was known, another size",
        "no hash, but it was read, and is another content",
        "a file was written under a stamp without hash",
        "a file was written under a stamp with a hash",
        "blob, hash fits",
        "blob, no hash was known",
        "blob, no hash was known, another size",
        "blob, hash does not fit",
    ],
)
def test_only_our_own_copy_of_the_intended_version_is_recovered(source: Side, scene: Scene, ours: bool) -> None:
    """An NFS write keeps our stamp: it stays a user's write."""
    found = recovered(None, intent(source), scene)
    assert (found is not None) is ours
    if found is not None:
        assert found.etag(source.other) == scene.of(source.other).version.etag  # type: ignore[union-attr]


@pytest.mark.parametrize("source", list(Side))
@pytest.mark.parametrize(("known", "ours"), [("0cc1-2", True), ("0cc1-3", False), ("", False)])
def test_an_unrecorded_copy_that_was_to_be_replaced_is_still_ours(source: Side, known: str, ours: bool) -> None:
    """Of the later version's intent nothing came; what it names as replaced is there, under our stamp of the earlier version."""
    scene = seen(source, ETagKind.MULTIPART, size_bytes=7)
    later = Base(blob_etag="later", vast_etag="later", size_bytes=9)
    later = replace(later, vast_etag=known) if source is Side.BLOB else replace(later, blob_etag=known)
    found = recovered(None, later, scene)
    assert (found is not None) is ours
    if found is not None:
        assert (found.etag(source), found.etag(source.other), found.size_bytes, found.written) == ("new", known, 7, AT)


def test_a_copy_of_before_its_source_s_metadata_changed_is_not_the_intended_one() -> None:
    """On VAST the ETag stays when metadata changes: the earlier copy has the same stamp, sealed with other metadata."""
    scene = seen(Side.VAST, ETagKind.OPAQUE, md5="m", stamp_md5="m")
    assert recovered(None, replace(intent(Side.VAST), metadata_digest=b"other"), scene) is None


def test_a_word_on_one_side_s_delete_is_none_on_the_other_s() -> None:
    """What was released for VAST does not release a delete on Blob (rule 8)."""
    held = Held("k", Side.VAST, "over the budget", 0, "released")
    on_vast = Decision(Action.DELETE, Reason.DELETED, source=Side.BLOB)
    on_blob = Decision(Action.DELETE, Reason.DELETED, source=Side.VAST)
    copy = Decision(Action.COPY, Reason.CHANGED, source=Side.BLOB)
    assert [_held_for(decision, held) for decision in (on_vast, on_blob, copy)] == [held, None, None]
    assert _held_for(on_vast, None) is None
