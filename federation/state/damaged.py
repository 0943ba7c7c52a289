"""What is recorded of a claimed key and cannot be read: which record it is, and how a person forgets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from federation.errors import UsageError
from federation.progress import Claim, Held
from federation.state.layout import Layout
from federation.state.records import key_digest, unpack_base, unpack_hint

DAMAGED = "record_damaged"
"""The reason under which the key is parked (rules/parking.py)."""
_T = TypeVar("_T")
_PLAIN = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')
"""What redis-cli takes as it is between quotes."""


class DamagedRecord(Exception):
    """*what*: "hint", "base", "held" or "intent"."""

    def __init__(self, what: str, why: Exception) -> None:
        super().__init__(f"The {what} record cannot be read: {why}")
        self.what = what

    def removal(self, layout: Layout, key: str) -> str:
        """The command for ``redis-cli`` that forgets the record; empty where the next mark makes it anew."""
        if self.what == "hint":
            return ""
        if self.what == "base":
            digest = "".join(f"\\x{byte:02x}" for byte in key_digest(key))
            return f'HDEL {layout.base_bucket(key)} "{digest}" "{digest}+"'
        name = "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in key.encode())
        return f'HDEL {layout.of_shard(layout.shard_of(key), self.what)} "{name}"'


def unpack_claim(key: str, hint: bytes, base: bytes, held: bytes, intent: bytes) -> Claim:
    """What Redis holds of *key*, the last three empty where there is none. Raises DamagedRecord."""
    return Claim(
        hint=_read("hint", lambda packed: unpack_hint(key, packed), hint),
        base=_read("base", unpack_base, base) if base else None,
        held=_read("held", lambda packed: msgspec.json.decode(packed, type=Held), held) if held else None,
        intent=_read("intent", unpack_base, intent) if intent else None,
    )


def _read(what: str, unpack: Callable[[bytes], _T], packed: bytes) -> _T:
    try:
        return unpack(packed)
    except (UsageError, msgspec.MsgspecError, ValueError, LookupError) as error:
        raise DamagedRecord(what, error) from error
