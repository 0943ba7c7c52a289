"""The order of keys on top of the order of names.

A listing comes in the order of the side's names. A key whose name is escaped (``federation.keys``) may belong elsewhere, and some
servers sort by UTF-16. So a first pass over the listing keeps the few entries that come late, and a second one merges them in.
When a whole first pass found nothing late and no escaped name, later listings make one pass only; one that finds a late entry
after all asks to be repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable

from federation import keys
from federation.errors import Park, RetryLater
from federation.keys import NamePolicy
from federation.model import ListEntry, Side
from federation.nameless import Ear, heard
from federation.sorting import sort_entries
from federation.stores.pages import Page

LATE_LIMIT = 200_000
"""Entries out of order that are kept in memory (about 60 MB); beyond that the whole listing is sorted on disk."""


Pages = Callable[[str, str], AsyncIterator[Page]]
"""All pages of names with a prefix and after a name; the server may ignore the latter."""


class OrderedListing:
    """Entries by key, in ascending UTF-8 order, from pages of names."""

    def __init__(self, side: Side, policy: NamePolicy, prefix: str, pages: Pages) -> None:
        self._side = side
        self._policy = policy
        self._prefix = prefix
        self._pages = pages
        self.in_order = False
        """Whether the last whole first pass, and no listing since, found nothing late and no escaped name."""
        self._escaped = False

    def disturb(self) -> None:
        """Say that an escaped name is about to be written, so that the next listing looks for late entries again."""
        self.in_order = False

    async def entries(self, prefix: str, start_after: str) -> AsyncIterator[ListEntry]:
        """As ``ObjectStore.list``. Raises RetryLater with reason "listing_order".

        Names that no key has are left out, and told to the ``Ear`` of this task in the pass that is read.
        """
        ear = heard.get(None)
        if ear is not None:
            ear.begin(self._side)
        after, last, trusted = _order(start_after), b"", self.in_order
        source = self._decoded(prefix, start_after, ear) if trusted else self._merged(prefix, ear)
        async for entry in source:
            order = _order(entry.key)
            if order <= after and not trusted:
                continue
            if order <= last:  # also among those to be skipped: whoever lists up to there may not have come to this one
                self.in_order = False
                text = "a listing came out of order; listing again"
                raise RetryLater(text, reason="listing_order", side=self._side, answered=True)
            last = order
            if order > after:
                yield entry

    async def any(self) -> bool:
        """As ``ObjectStore.holds_any``: no order is asked for, so no pass is made to learn it."""
        cut = len(self._prefix)
        async for page in self._pages(self._prefix, ""):
            if any(len(entry.key) > cut and not keys.excluded(entry.key[cut:]) for entry in page.entries):
                return True
        return False

    async def _merged(self, prefix: str, ear: Ear | None) -> AsyncIterator[ListEntry]:
        late = await self._late(prefix)
        if ear is not None and late != {}:
            ear.reorder(self._side, on_disk=late is None)
        if late is None:
            async for entry in sort_entries(self._decoded(prefix, "", ear)):
                yield entry
            return
        waiting = deque(sorted(late.values(), key=lambda entry: _order(entry.key)))
        async for entry in self._decoded(prefix, "", ear):
            if entry.key in late:
                continue
            while waiting and _order(waiting[0].key) < _order(entry.key):
                yield waiting.popleft()
            yield entry
        for entry in waiting:
            yield entry

    async def _late(self, prefix: str) -> dict[str, ListEntry] | None:
        """Entries below their predecessors, by key; None when they are more than ``LATE_LIMIT``."""
        late: dict[str, ListEntry] = {}
        last = b""
        async for entry in self._decoded(prefix, "", None):
            order = _order(entry.key)
            if order > last:
                last = order
                continue
            late[entry.key] = entry
            if len(late) > LATE_LIMIT:
                self.in_order = False
                return None
        self.in_order = not prefix and not late and not self._escaped
        return late

    async def _decoded(self, prefix: str, start_after: str, ear: Ear | None) -> AsyncIterator[ListEntry]:
        self._escaped = False
        wanted = self._prefix + keys.server_prefix(prefix, self._policy)
        keep_excluded = keys.excluded_below(prefix)
        start = self._prefix + start_after if start_after else ""
        cut = len(self._prefix)
        async for page in self._pages(wanted, start):
            for entry in page.entries:
                if not keep_excluded and keys.excluded(entry.key[cut:]):
                    continue
                found = self._keyed(entry, cut, ear)
                if found is not None and found.key.startswith(prefix):
                    yield found

    def _keyed(self, entry: ListEntry, cut: int, ear: Ear | None) -> ListEntry | None:
        name = entry.key
        if self._policy.plain(name[cut:]) and len(name) > cut:
            return entry if not cut else ListEntry(name[cut:], entry.etag, entry.size_bytes, entry.modified, entry.md5)
        self._escaped = True
        self.in_order = False
        try:
            key = keys.decode(name, self._policy, prefix=self._prefix)
        except Park:
            rest = name[cut:]
            if ear is not None and rest and not keys.excluded(rest):  # a name that is the pair's prefix is its folder's mark
                ear.hear(self._side, rest)
            return None
        return ListEntry(key, entry.etag, entry.size_bytes, entry.modified, entry.md5)


def _order(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
