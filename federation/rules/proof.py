"""What counts as proof that two contents are equal, or that an object is our own copy (design 4.2 question 2, design 5)."""

from __future__ import annotations

from federation.model import Base, Present, Side


def proved_copy(present: Present) -> bool:
    """Whether the origin stamp on *present* still fits.

    It was sealed for this key and metadata (the observer drops a stamp whose seal is broken), and the object's own present hash
    equals the stamp's.
    """
    return present.origin is not None and present.origin.md5 is not None and present.version.md5 == present.origin.md5


def copy_of(present: Present, peer: Side) -> bool:
    """*present* is proved to be our copy of some version of *peer*: not the work of a second writer."""
    return present.origin is not None and present.origin.side is peer and proved_copy(present)


def same_content(blob: Present, vast: Present) -> bool | None:
    """True or False when proved, None when it is not known. Size alone proves only difference; nothing equals nothing."""
    if blob.version.size_bytes != vast.version.size_bytes:
        return False
    if blob.version.size_bytes == 0:
        return True
    if blob.version.md5 is not None and vast.version.md5 is not None:
        return blob.version.md5 == vast.version.md5
    for one, other, side in ((blob, vast, Side.VAST), (vast, blob, Side.BLOB)):
        if copy_of(one, side) and one.origin is not None and one.origin.etag == other.version.etag:
            return True
    return None


def content_as_agreed(present: Present, base: Base) -> bool:
    """Whether the content is proved to be the base's, whatever the ETag says (an NFS touch changes VAST's ETag)."""
    if base.md5 is not None and present.version.md5 is not None:
        return (base.md5, base.size_bytes) == (present.version.md5, present.version.size_bytes)
    return base.size_bytes == 0 == present.version.size_bytes
