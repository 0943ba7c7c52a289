"""What users write: contents and metadata, and what of it counts as one value."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from federation.metadata import digest
from federation.model import Metadata, Side
from federation.stores.memory import MemoryStore, _Object
from federation.sync.preserve import POINTER, POINTER_KEY

Value = tuple[bytes, tuple[tuple[str, str], ...]]
"""Content and user metadata, as far as either side can hold it."""
BIG = "big"
"""Name of a metadata entry that VAST has no room for: no part of a value, with a rule of its own."""


def md5_of(content: bytes) -> str:
    """As both services tell it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def value_of(held: _Object) -> Value:
    """What a user would compare."""
    return held.data, plain(held.metadata)


def plain(metadata: Metadata) -> tuple[tuple[str, str], ...]:
    """User metadata that fits either side."""
    return tuple(entry for entry in metadata.user if entry[0] != BIG)


def agreed_digest(metadata: Metadata) -> bytes:
    """What a base says of *metadata*: of what either side can hold."""
    return digest(replace(metadata, user=plain(metadata)))


def has_big(held: _Object) -> bool:
    """Whether it has metadata that VAST has no room for."""
    return any(name == BIG for name, _ in held.metadata.user)


def with_header(user: tuple[tuple[str, str], ...]) -> Metadata:
    """*user* and a header that follows from it, so that both change: Blob takes them one after the other."""
    tag = dict(user).get("tag")
    return Metadata(f"text/{tag}" if tag else None, user=user)


def with_tag(text: str) -> Metadata:
    """User metadata of one name."""
    return with_header((("tag", text),) if text else ())


def rich_tags(number: int, side: Side) -> Metadata:
    """Several entries, of which one has to be escaped; and on Blob now and then one that VAST has no room for."""
    entries = [("owner", "\u00e9 % \u00fc"), ("tag", f"r{number}"), ("x-y_z", "1")]
    if side is Side.BLOB and number % 2:
        entries.append((BIG, "v" * 3000))
    return with_header(tuple(sorted(entries)))


def without_big(metadata: Metadata) -> Metadata:
    """What a user of VAST could write of it."""
    return replace(metadata, user=plain(metadata))


def kept_as(server: MemoryStore, name: str) -> _Object | None:
    """The loser that is kept under *name*: its copy, or the version that a pointer under that name leads to."""
    held = server.objects.get(name)
    pointer = dict(held.metadata.user) if held is not None else {}
    return server.versions.get((pointer[POINTER_KEY], pointer[POINTER])) if POINTER in pointer else held
