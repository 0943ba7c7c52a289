"""Metadata: the pair's common form, the form each side stores, and the origin stamp (design 5 and 9). Pure.

The common form has lower-case S3-style names and decoded values. A hyphen of a name is an underscore on Blob, whose names are C#
identifiers; S3 names with an underscore are legal but dropped by common HTTP servers, so Blob's names stay readable there.
Any other character that a side refuses becomes ``_xHH_`` (Blob) or ``-xHH-`` (S3), its code point in hexadecimal; a value that is
no plain ASCII header value becomes ``utf-8''`` and percent-encoded UTF-8 (RFC 8187). Both escape themselves, and only what would
have been written counts as an escape: whatever a user gave on a side comes back to it exactly. docs/names.md says it for users.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from urllib.parse import quote, unquote_to_bytes

from federation import mtime
from federation.model import Metadata, OriginStamp, Side, Stamp, StampOrigin, Tags

HEADER_FIELDS = ("content_type", "content_encoding", "content_language", "content_disposition", "cache_control")
"""The fields of ``Metadata`` that are HTTP headers of the same name."""
DEFAULT_CONTENT_TYPES = frozenset({"application/octet-stream", "binary/octet-stream"})
"""What the services say of an object whose writer gave no type."""

MAX_TAGS = 10
_TAG_NAME = {Side.BLOB: re.compile(r"[A-Za-z0-9 +\-./:=_]{1,128}\Z"), Side.VAST: re.compile(r"[\w +\-./:=@]{1,128}\Z")}
_TAG_VALUE = {Side.BLOB: re.compile(r"[A-Za-z0-9 +\-./:=_]{0,256}\Z"), Side.VAST: re.compile(r"[\w +\-./:=@]{0,256}\Z")}
"""facts/azure.md 3.4: 10 tags, 128 and 256 characters, letters, digits and a few signs; S3 takes ``@`` and any script besides."""
_MARKER = "utf-8''"
_PLAIN_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?\Z")
_CODE = re.compile(r"x([0-9a-f]{2,6})")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz")
_DIGITS = frozenset("0123456789")
_HYPHEN = "-"
_REMEMBERED = 256
"""Metadata that is alike in most objects is worked out once; at 8 KiB each it is still little memory."""


@dataclass(frozen=True, slots=True)
class Form:
    """What one side takes as user metadata."""

    stamp_name: str
    limit_bytes: int
    """Sum of names and values."""
    hyphen: str
    """What stands for a hyphen, and begins and ends an escape."""
    legal: frozenset[str]
    legal_first: frozenset[str]

    def legal_at(self, position: int) -> frozenset[str]:
        """The characters a name may have at *position*."""
        return self.legal if position else self.legal_first


_TOKEN = _LETTERS | _DIGITS | frozenset("!#$%&'*+.^_`|~")
FORMS: Mapping[Side, Form] = {
    # facts/azure.md 3.4: C# identifiers, 8 KiB
    Side.BLOB: Form("fedplane_origin", 8 * 1024, "_", _LETTERS | _DIGITS, _LETTERS),
    # facts/vast.md 3: 2 KB for an object; names are HTTP tokens
    Side.VAST: Form("fedplane-origin", 2 * 1024, _HYPHEN, _TOKEN, _TOKEN),
}


@dataclass(frozen=True, slots=True)
class Stored:
    """One side's form: header values by field of ``Metadata``, user metadata by name, and whether something did not fit."""

    headers: dict[str, str]
    user: dict[str, str]
    lossy: bool
    tags: Tags | None = None


def to_side(metadata: Metadata, stamp: OriginStamp | None, side: Side) -> Stored:
    """What to send to *side*. What it cannot hold is left out and ``lossy`` is set; so is a stamp, without that."""
    form = FORMS[side]
    headers: dict[str, str] = {}
    lossy = False
    for name in HEADER_FIELDS:
        value = getattr(metadata, name)
        if value and _PLAIN_VALUE.match(value):
            headers[name] = value
        elif value:
            lossy = True
    user: dict[str, str] = {}
    room_bytes = form.limit_bytes
    for name, value in metadata.user:
        said = mtime.for_blob(value) if name == mtime.NAME and side is Side.BLOB else value
        stored_name, stored_value = encode_name(name, side), encode_value(said)
        cost_bytes = len(stored_name) + len(stored_value)
        if not name or cost_bytes > room_bytes or stored_name == form.stamp_name or stored_name in user:
            lossy = True
            continue
        room_bytes -= cost_bytes
        user[stored_name] = stored_value
    if stamp is not None:
        text = format_stamp(stamp)
        if len(form.stamp_name) + len(text) <= room_bytes:
            user[form.stamp_name] = text
    tags = tags_on(metadata.tags, side)
    return Stored(headers, user, lossy or tags != metadata.tags, tags)


def halfway(found: Metadata, stored: Stored) -> Metadata:
    """What an object holds that had *found*, once the headers of *stored* are set and its user metadata is not."""
    return Metadata(**{name: stored.headers.get(name) for name in HEADER_FIELDS}, user=found.user, tags=found.tags)


def tags_on(tags: Tags | None, side: Side) -> Tags | None:
    """Those of *tags* that *side* can hold, the first ``MAX_TAGS`` of them in order of their names."""
    if tags is None:
        return None
    fit = [tag for tag in tags if _TAG_NAME[side].match(tag[0]) and _TAG_VALUE[side].match(tag[1])]
    return tuple(fit[:MAX_TAGS])


def from_side(headers: Mapping[str, str | None], user: Mapping[str, str], side: Side) -> tuple[Metadata, OriginStamp | None]:
    """The common form of what *side* holds, and the origin stamp on it, proved or not.

    Args:
        headers: values by field of ``Metadata``; missing, None and empty mean the same.
        user: the side's own names (in any case) and values.
        side: whose form it is.
    """
    form = FORMS[side]
    stamp: OriginStamp | None = None
    common: dict[str, str] = {}
    for raw_name, value in user.items():
        name = raw_name.lower()
        if name == form.stamp_name:
            stamp = parse_stamp(value)
        else:
            decoded = decode_value(value)
            common[decode_name(name, side)] = mtime.from_side(decoded) if name == mtime.NAME else decoded
    fields = {name: headers.get(name) or None for name in HEADER_FIELDS}
    return Metadata(**fields, user=tuple(sorted(common.items())), tags=None), stamp


@lru_cache(maxsize=_REMEMBERED)
def held(metadata: Metadata, side: Side) -> Metadata:
    """What *side* gives back of *metadata* once it was written there: all of it, unless that was lossy."""
    stored = to_side(metadata, None, side)
    return replace(from_side(stored.headers, stored.user, side)[0], tags=stored.tags)


def shared(metadata: Metadata, side: Side) -> Metadata:
    """The part of what *side* holds that the other side can hold too: what two sides in step agree on."""
    return held(metadata, side.other)


def carried_back(metadata: Metadata, over: Metadata, side: Side) -> Metadata:
    """*metadata* as *side* holds it, completed by the entries of *over* that *side* could not hold.

    *over* is what the other side holds of the same object and is about to be overwritten: what was left out on the way to *side*
    says nothing by its absence there.
    """
    seen = {name for name, _ in (*held(over, side).user, *metadata.user)}
    left_out = [entry for entry in over.user if entry[0] not in seen]
    return replace(metadata, user=tuple(sorted([*metadata.user, *left_out])), tags=_tags_back(metadata.tags, over.tags, side))


def _tags_back(tags: Tags | None, over: Tags | None, side: Side) -> Tags | None:
    if tags is None or over is None:
        return tags
    seen = {name for name, _ in (*(tags_on(over, side) or ()), *tags)}
    return tuple(sorted([*tags, *(tag for tag in over if tag[0] not in seen)]))


def encode_name(name: str, side: Side) -> str:
    """*side*'s form of a common name. Common names are lower-case."""
    form, name = FORMS[side], name.lower()
    stored = ""
    seen: dict[int, bool] = {}
    for position in reversed(range(len(name))):
        char, legal = name[position], form.legal_at(position)
        if char == _HYPHEN and _escape(form.hyphen + stored, 0, form, legal, seen if position else {}) is None:
            char = form.hyphen
        elif char == _HYPHEN or char not in legal:
            char = f"{form.hyphen}x{ord(char):02x}{form.hyphen}"
        stored = char + stored
    return stored


def decode_name(name: str, side: Side) -> str:
    """Inverse of ``encode_name``. Only what it would have escaped counts as an escape."""
    form, name = FORMS[side], name.lower()
    parts: list[str] = []
    seen: dict[int, bool] = {}
    at = 0
    while at < len(name):
        escape = _escape(name, at, form, form.legal_at(at), seen if at else {}) if name[at] == form.hyphen else None
        char, end = escape or (_HYPHEN if name[at] == form.hyphen else name[at], at + 1)
        parts.append(char)
        at = end
    return "".join(parts)


def _escape(text: str, at: int, form: Form, legal: frozenset[str], seen: dict[int, bool]) -> tuple[str, int] | None:
    """The character that an escape at the hyphen *at* stands for, and where it ends; None where the hyphen is only a hyphen.

    An escaped hyphen is one that would begin an escape if it were written plainly, which the same rule tells. *seen* keeps that
    by the distance from the end of the text, else a name of many escaped hyphens would cost the square of its length.
    """
    found: tuple[str, int] | None = None
    passed: list[int] = []
    good: bool | None = None
    while good is None:
        passed.append(len(text) - at)
        code = _CODE.match(text, at + 1)
        if code is None or not text.startswith(form.hyphen, code.end()):
            good = False
            break
        value = int(code[1], 16)
        if value > sys.maxunicode or code[1] != f"{value:02x}":
            good = False
            break
        char, at = chr(value), code.end()
        found = found or (char, at + 1)
        good = seen.get(len(text) - at) if char == _HYPHEN else char not in legal and char == char.lower()
    seen.update(dict.fromkeys(passed, good))
    return found if good else None


def encode_value(value: str) -> str:
    """A plain ASCII header value that stands for *value*; *value* itself where it is one that cannot be taken for another."""
    if _PLAIN_VALUE.match(value) and decode_value(value) == value:
        return value
    return _marked(value)


def decode_value(value: str) -> str:
    """Inverse of ``encode_value``; a value that it cannot have written is itself."""
    if not value.startswith(_MARKER) or not value.isascii():
        return value
    decoded = unquote_to_bytes(value[len(_MARKER) :]).decode("utf-8", "surrogateescape")
    return decoded if _marked(decoded) == value and encode_value(decoded) == value else value


def _marked(value: str) -> str:
    return _MARKER + quote(value.encode("utf-8", "surrogateescape"), safe="")


@lru_cache(maxsize=_REMEMBERED)
def digest(metadata: Metadata) -> bytes:
    """8 bytes that are equal for metadata that means the same; a default content type counts as none."""
    content_type = metadata.content_type
    if content_type in DEFAULT_CONTENT_TYPES:
        content_type = None
    canonical = replace(metadata, content_type=content_type)
    parts = [getattr(canonical, name) or "" for name in HEADER_FIELDS]
    parts += [text for pair in sorted(metadata.user) for text in pair]
    # No tags are as good as tags that are not mapped: switching the mapping on makes nothing of most objects.
    parts += ["\0tags", *(text for pair in metadata.tags for text in pair)] if metadata.tags else []
    state = blake2b(digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(4, "big") + data)
    return state.digest()


# ------------------------------------------------------------------------------------------------------------ origin stamp

_STAMP_VERSION = "1"
_NO_MD5 = "-"
_MD5_HEX = re.compile(r"[0-9a-f]{32}\Z")
_SEAL_HEX = re.compile(r"[0-9a-f]{16}\Z")
_SIGNED = re.compile(r"-?[0-9]{1,18}\Z")


def key_digest(key: str) -> str:
    """Seal over a text: 16 hexadecimal digits."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def format_stamp(stamp: OriginStamp) -> str:
    """The stamp as one metadata value: version; side; ETag; time, precision (microseconds) and origin; MD5; seal."""
    written = stamp.written
    return ";".join(
        (
            _STAMP_VERSION,
            stamp.side.value,
            quote(stamp.etag, safe=""),
            str(written.at_us),
            str(written.precision_us),
            written.origin.value,
            stamp.md5 or _NO_MD5,
            stamp.key_digest,
        )
    )


def parse_stamp(text: str) -> OriginStamp | None:
    """The stamp in a metadata value; None for anything ``format_stamp`` cannot have written."""
    match text.split(";"):
        case ["1", side, etag, at_us, precision_us, origin, md5, seal]:
            well_formed = (
                text.isascii()
                and side in set(Side)
                and origin in set(StampOrigin)
                and _SIGNED.match(at_us)
                and _SIGNED.match(precision_us)
                and (md5 == _NO_MD5 or _MD5_HEX.match(md5))
                and _SEAL_HEX.match(seal)
            )
            if not well_formed:
                return None
            written = Stamp(int(at_us), int(precision_us), StampOrigin(origin))
            etag_text = unquote_to_bytes(etag).decode("utf-8", "replace")
            return OriginStamp(Side(side), etag_text, written, None if md5 == _NO_MD5 else md5, seal)
        case _:
            return None
