"""Whether writes that are refused are of single objects, or the right to write is gone altogether (design 4.5)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from federation.errors import Halt, NotPresent, Park, Reobserve
from federation.stores.probe import PROBE_PREFIX

if TYPE_CHECKING:
    from federation.stores.base import HttpStore

_MANY = 3
"""So many keys in a row whose writes are refused are no fault of theirs, if one that nobody restricts is refused too."""
_TRIAL = f"{PROBE_PREFIX}rights"
"""One name for all: where nothing may be deleted, one object stays."""


class WriteRights:
    """Of one store, as far as its writes told."""

    def __init__(self, store: HttpStore) -> None:
        self._store = store
        self._refused: set[str] = set()

    def granted(self) -> None:
        """A write was taken."""
        self._refused.clear()

    async def refused(self, key: str) -> None:
        """A write of *key* was refused, though the container can be listed. Raises Halt where no write is taken any more."""
        self._refused.add(key)
        if len(self._refused) < _MANY:
            return
        self._refused.clear()  # before: the trial is a write too
        try:
            await self._try()
        finally:
            self._refused.clear()

    async def _try(self) -> None:
        store = self._store
        try:
            for _ in range(2):  # made, and written over
                await store.put_probe(_TRIAL, {})
        except Park as error:
            if error.reason != "access_denied":
                return
            text = (
                f"the {store.side} side can be listed and takes no write: {_MANY} keys in a row were refused, and {_TRIAL} too. "
            )
            text += f"{error} Then: fedplane lift write_refused, and fedplane parked retry --all."
            raise Halt(text, reason="write_refused", side=store.side) from None
        with suppress(Park, NotPresent, Reobserve):  # who may write and not delete goes on writing
            await store.delete_probe(_TRIAL, {}, None)
