"""Which spelling of object keys a sender of S3 events uses, learned from events that prove it (facts/vast.md 1, key encoding).

No document says how VAST writes a key with blanks, ``+`` or ``%``. Until that is known, every key that a record may mean is
marked; marking one that does not exist costs looks and does no harm. An event whose ETag is the agreed one of exactly one
candidate proves that candidate's spelling. What is concluded wrongly is found by the next scan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from federation.model import Base, Change, Side
from federation.payloads.vast import Ambiguous
from federation.ports import State

SPELLINGS = frozenset({"percent", "raw", "plus"})
PROOFS = 2
"""Events that must contradict a spelling before it is given up."""


class KeySpelling:
    """Picks the changes to mark of records whose key can be read in several ways."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._against: Counter[str] = Counter()

    @property
    def possible(self) -> frozenset[str]:
        """Spellings the sender may use, as far as is known."""
        left = frozenset(one for one in SPELLINGS if self._against[one] < PROOFS)
        return left or SPELLINGS

    async def pick(self, records: Iterable[Ambiguous]) -> list[Change]:
        """The changes to mark. Raises RetryLater."""
        records = list(records)
        keys = [change.key for record in records for change, _ in record.readings]
        bases = dict(zip(keys, await self._state.bases(keys), strict=True)) if keys else {}
        picked: list[Change] = []
        for record in records:
            proved = [change for change, _ in record.readings if _agreed(change, bases[change.key])]
            if len(proved) == 1:
                self._learn(record, proved[0])
            picked += proved if len(proved) == 1 else record.under(self.possible)
        return picked

    def _learn(self, record: Ambiguous, proved: Change) -> None:
        if proved.deleted:
            return  # a delete names no version: enough to choose by, too little to learn from
        right = record.spellings(proved.key)
        for spelling in SPELLINGS - right:
            self._against[spelling] += 1
        if not any(self._against[one] < PROOFS for one in SPELLINGS):
            self._against.clear()  # contradictory: two senders, or another one now


def _agreed(change: Change, base: Base | None) -> bool:
    return base is not None and base.live and (change.deleted or change.etag == base.etag(Side.VAST))
