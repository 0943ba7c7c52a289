"""Which spelling of object keys a sender of S3 events uses, learned from the canary (facts/vast.md 1, key encoding).

No document says how VAST writes a key with blanks, ``+`` or ``%``. Every key that a record may mean is marked; marking one that
does not exist costs looks and does no harm. The canary's own name settles it: it is read rightly by the sender's spelling only.
An ETag that fits a base would prove nothing: two keys may hold the same content.
"""

from __future__ import annotations

from collections.abc import Iterable

from federation.model import Change
from federation.payloads.vast import Ambiguous

SPELLINGS = frozenset({"percent", "raw", "plus"})


class KeySpelling:
    """Picks the changes to mark of records whose key can be read in several ways."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()

    @property
    def possible(self) -> frozenset[str]:
        """Spellings the sender may use, as far as is known."""
        return self._known or SPELLINGS

    def learn(self, spellings: Iterable[str]) -> bool:
        """The canary was read by these. Returns whether keys may have been read wrongly until now: then only a scan finds them.

        A topic may have two senders (notifications and triggers), so what was learned once stays possible.
        """
        told = frozenset(spellings) & SPELLINGS
        wrong = bool(self._known) and not told <= self._known
        self._known |= told
        return wrong

    def pick(self, records: Iterable[Ambiguous]) -> list[Change]:
        """The changes to mark."""
        return [change for record in records for change in record.under(self.possible)]
