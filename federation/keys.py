"""Names: the pair-relative key is the raw name; each side's name is derived from it, reversibly and injectively (design 9).

A character that is illegal on a side becomes its full-width form (U+FF01 ..) or control picture (U+2400 ..), as in rclone. The
quote character U+201B keeps a replacement that a user really wrote apart. A run of k quotes before such a character is doubled
(then the replacement stands for the illegal character) or doubled plus one (then it stands for itself); where only a position is
illegal (a dot, a slash), a replacement that a user really wrote there gets one quote more. So encoding is a bijection between
keys and legal names, and a key without any of these characters is its own name. docs/names.md says it for users.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from federation.errors import Park
from federation.model import PRESERVED_PREFIX, Side

QUOTE = "\u201b"
_WIDE_DOT = "\uff0e"
_WIDE_SLASH = "\uff0f"
_CONTROLS = "".join(map(chr, range(0x20))) + "\x7f"
_SURROGATES = r"\ud800-\udfff"
_NO_UNICODE = re.compile(f"[{_SURROGATES}]")
_DELETE_PICTURE = "\u2421"

_TRAILING_DOT = re.compile(f"({QUOTE}*)([.{_WIDE_DOT}])(?=/|\\Z)")
_DOT_SEGMENT = re.compile(rf"(?:(?<=/)|\A)(?:\.\.?|(?P<quotes>{QUOTE}*){_WIDE_DOT}(?:(?P=quotes){_WIDE_DOT})?)(?=/|\Z)")
_EMPTY_SEGMENT = re.compile(f"//|\\A/|(?:\\A|/){QUOTE}*{_WIDE_SLASH}")
_QUOTED_SLASH = re.compile(f"({QUOTE}*){_WIDE_SLASH}")
_AZURE_REFUSES = re.compile(
    "[\x81\x8d\x8f\x90\x9d\ufdd0-\ufdef"
    + "".join(chr(0x10000 * plane + 0xFFFE + low) for plane in range(17) for low in (0, 1))
    + "]"
)
"""Control characters and code points that are no characters: refused (facts/azure.md 3.4; which ones, by Microsoft's own checker
of names for Azure Storage), and no replacement stands for them."""


@dataclass(frozen=True, slots=True)
class NamePolicy:
    """What one side's names may hold. Build with ``policy_for`` or take a constant of this module."""

    name: str
    illegal: str
    """Characters that may not appear anywhere."""
    trailing_dots: bool = False
    """Whether a segment that ends with a dot is illegal."""
    dot_segments: bool = False
    """Whether the segments ``.`` and ``..`` are illegal."""
    empty_segments: bool = False
    """Whether a leading slash and ``//`` are illegal."""
    refused: re.Pattern[str] | None = None
    """Characters that the side refuses and nothing can stand for."""
    max_characters: int | None = None
    """Limit of the name in UTF-16 units, which is how Azure and SMB count; any other count is no larger."""
    max_bytes: int | None = None
    """Limit of the name in UTF-8."""
    max_segments: int | None = None
    max_segment_characters: int | None = None
    _to_wide: dict[str, str] = field(init=False, repr=False, compare=False)
    _to_plain: dict[str, str] = field(init=False, repr=False, compare=False)
    _pairs: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _special: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        wide = {char: _replacement(char) for char in self.illegal}
        chars = re.escape("".join(wide) + "".join(wide.values()))
        parts = [f"[{chars}{_SURROGATES}]"]
        if self.trailing_dots:
            parts.append(_TRAILING_DOT.pattern)
        if self.dot_segments:
            parts.append(_DOT_SEGMENT.pattern)
        if self.empty_segments:
            parts.append(_EMPTY_SEGMENT.pattern)
        object.__setattr__(self, "_to_wide", wide)
        object.__setattr__(self, "_to_plain", {value: key for key, value in wide.items()})
        object.__setattr__(self, "_pairs", re.compile(f"({QUOTE}*)([{chars}])"))
        object.__setattr__(self, "_special", re.compile("|".join(parts)))

    def plain(self, text: str) -> bool:
        """Whether *text* is the same as key and as name."""
        return self._special.search(text) is None

    def escape(self, key: str) -> str:
        """The legal form of *key*, without looking at limits."""
        if self.plain(key):
            return key
        name = self._pairs.sub(lambda m: _quoted(m[1], m[2], self._to_wide), key)
        if self.trailing_dots:
            name = _TRAILING_DOT.sub(lambda m: _quoted(m[1], m[2], {".": _WIDE_DOT}), name)
        if self.empty_segments:
            name = _escape_slashes(name)
        return _DOT_SEGMENT.sub(_escape_dots, name) if self.dot_segments else name

    def unescape(self, name: str) -> str:
        """Inverse of ``escape`` on its image; on other names the result does not escape back to *name*."""
        if self.plain(name):
            return name
        key = _DOT_SEGMENT.sub(_unescape_dots, name) if self.dot_segments else name
        if self.empty_segments:
            key = _unescape_slashes(key)
        if self.trailing_dots:
            key = _TRAILING_DOT.sub(lambda m: _unquoted(m[1], m[2], {_WIDE_DOT: "."}), key)
        return self._pairs.sub(lambda m: _unquoted(m[1], m[2], self._to_plain), key)


def encode(key: str, policy: NamePolicy, *, prefix: str = "") -> str:
    """The side's whole name of *key*: *prefix*, then the key's legal form.

    Raises:
        Park: reason "unrepresentable": the key is empty, holds lone surrogates, or its name exceeds a limit of the side.
    """
    name = prefix + policy.escape(key)
    problem = _problem(key, name, policy)
    if problem:
        raise Park(f"{policy.name}: {problem}", reason="unrepresentable", key=key)
    return name


def decode(name: str, policy: NamePolicy, *, prefix: str = "") -> str:
    """The key of the side's whole name *name*. ``encode`` of the result is *name*.

    Raises:
        Park: reason "unrepresentable": no key has this name (outside *prefix*, empty, no Unicode, or illegal under the policy).
    """
    if not name.startswith(prefix) or name == prefix:
        raise Park(f"{policy.name}: the name is not below the prefix {prefix!r}", reason="unrepresentable", key=name)
    rest = name[len(prefix) :]
    if policy.plain(rest):
        return rest
    if _NO_UNICODE.search(rest):
        raise Park(f"{policy.name}: the name is not valid UTF-8", reason="unrepresentable", key=name)
    key = policy.unescape(rest)
    if policy.escape(key) != rest:
        raise Park(f"{policy.name}: the name is not legal under this policy", reason="unrepresentable", key=name)
    return key


def legal(text: str, policy: NamePolicy) -> bool:
    """Whether *text* may be the beginning of a side's names as it stands: a configured prefix."""
    return policy.escape(policy.unescape(text)) == text


def excluded(key: str) -> bool:
    """Whether *key* belongs to the plane itself or to VAST and is never synchronised (design 7; facts/vast.md 3)."""
    return excluded_below(key) or key == ".snapshot"


def excluded_below(prefix: str) -> bool:
    """Whether every key that begins with *prefix* is excluded; ``.snapshot`` also begins ``.snapshots``, which is a user's."""
    return prefix.startswith((PRESERVED_PREFIX, ".snapshot/", ".vast"))


def why_never(key: str) -> str:
    """Why there is nothing to do about *key*, for a person who named it; empty where it may be synchronised."""
    if not key:
        return "an empty text is no key"
    return f"{key!r} is never synchronised: it is ours or VAST's" if excluded(key) else ""


def server_prefix(prefix: str, policy: NamePolicy) -> str:
    """The longest text that begins the name of every key that begins with *prefix*."""
    for end, char in enumerate(prefix):
        context = prefix[max(end - 1, 0) : end + 1] if char == "/" else prefix[end : end + 2] if char == "." else char
        if char == QUOTE or not policy.plain(context):
            return prefix[:end]
    return prefix


def policy_for(side: Side, vast_names: str = "common") -> NamePolicy:
    """The policy of *side*; *vast_names* is the setting ``name_policy`` ("common" or "native")."""
    if side is Side.BLOB:
        return AZURE_BLOB
    return VAST_NATIVE if vast_names == "native" else VAST_COMMON


# --------------------------------------------------------------------------------------------------------------- internals


def _problem(key: str, name: str, policy: NamePolicy) -> str:
    if not key:
        return "the key is empty"
    if not name.isascii() and _NO_UNICODE.search(name):
        return "the key holds lone surrogates"
    if policy.refused is not None and not name.isascii() and (refused := policy.refused.search(name)):
        return f"the name has U+{ord(refused[0]):04X}, which the service refuses"
    segments = name.split("/")
    limits = (
        (_utf16_units(name), policy.max_characters, "characters"),
        (len(name.encode()), policy.max_bytes, "bytes"),
        (len(segments), policy.max_segments, "segments"),
        (max(map(_utf16_units, segments)), policy.max_segment_characters, "characters in one segment"),
    )
    for value, limit, unit in limits:
        if limit is not None and value > limit:
            return f"the name has {value} {unit}, {limit} are allowed"
    return ""


def _utf16_units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


def _replacement(char: str) -> str:
    if char == "\x7f":
        return _DELETE_PICTURE
    return chr(ord(char) + (0x2400 if char < " " else 0xFEE0))


def _quoted(quotes: str, char: str, to_wide: dict[str, str]) -> str:
    return quotes * 2 + to_wide[char] if char in to_wide else quotes * 2 + QUOTE + char


def _unquoted(quotes: str, char: str, to_plain: dict[str, str]) -> str:
    if char not in to_plain:
        return quotes + char
    half, literal = divmod(len(quotes), 2)
    return QUOTE * half + (char if literal else to_plain[char])


def _escape_dots(match: re.Match[str]) -> str:
    return match[0].replace(_WIDE_DOT, QUOTE + _WIDE_DOT).replace(".", _WIDE_DOT)


def _unescape_dots(match: re.Match[str]) -> str:
    return match[0].replace(QUOTE + _WIDE_DOT, _WIDE_DOT) if match["quotes"] else match[0].replace(_WIDE_DOT, ".")


def _escape_slashes(key: str) -> str:
    # A slash is illegal at the start and after another slash *of the name*: a replaced one separates nothing.
    return _walk(key, plain=_WIDE_SLASH, quoted=lambda quotes: QUOTE + quotes + _WIDE_SLASH)


def _unescape_slashes(name: str) -> str:
    return _walk(name, plain="/", quoted=lambda quotes: quotes[1:] + _WIDE_SLASH if quotes else "/")


def _walk(text: str, *, plain: str, quoted: Callable[[str], str]) -> str:
    parts: list[str] = []
    at, start_of_segment = 0, True
    while at < len(text):
        match = _QUOTED_SLASH.match(text, at) if start_of_segment else None
        if match is not None:
            parts.append(quoted(match[1]))
            at, start_of_segment = match.end(), False
        elif start_of_segment and text[at] == "/":
            parts.append(plain)
            at, start_of_segment = at + 1, False
        else:
            parts.append(text[at])
            start_of_segment = text[at] == "/"
            at += 1
    return "".join(parts)


AZURE_BLOB = NamePolicy(
    "Azure blob name",
    _CONTROLS + "\\",
    trailing_dots=True,
    refused=_AZURE_REFUSES,
    max_characters=1024,
    max_segments=254,
)  # facts/azure.md 3.4; clients and the emulator turn a backslash into a slash
VAST_COMMON = NamePolicy(
    "VAST name (common)",
    '\0"\\:|<>*?',
    dot_segments=True,
    empty_segments=True,
    max_bytes=1024,
    max_segment_characters=255,
)  # facts/vast.md 4: the default policy refuses what SMB refuses; a control character is legal there, as NFS clients write it
VAST_NATIVE = NamePolicy("VAST name (native)", "\0", max_bytes=1024)
