"""Whether a side fails at one object or at all: an object that is never answered for must not close the side to the others."""

from __future__ import annotations

from collections.abc import Mapping

from federation.errors import FederationError, RetryLater
from federation.model import Side
from federation.ports import Clock, ObjectStore

PERHAPS_THE_KEYS_FAULT = frozenset({"server_error", "timeout", "cut_short"})
_MANY = 3
"""So many keys that fail at a time are no fault of theirs."""
_REMEMBERED_SECONDS = 600.0
"""Longer than the longest pause between two attempts; another worker may have taken the key over."""


class Blame:
    """Of one worker."""

    def __init__(self, stores: Mapping[Side, ObjectStore], clock: Clock) -> None:
        self._stores = stores
        self._clock = clock
        self._failing: dict[str, float] = {}

    def acquit(self, key: str) -> None:
        """Its work came to an end, of whatever kind."""
        self._failing.pop(key, None)

    async def lies_with(self, key: str, error: Exception) -> bool:
        """Whether *error* is the fault of *key* alone: few others fail so, and the side, asked for nothing but itself, answers.

        That answer also ends the count of failures in a row that closes the side's gate.
        """
        if not isinstance(error, RetryLater) or error.reason not in PERHAPS_THE_KEYS_FAULT:
            return False
        now = self._clock.monotonic_seconds()
        self._failing = {one: at for one, at in self._failing.items() if now - at < _REMEMBERED_SECONDS} | {key: now}
        if len(self._failing) >= _MANY:
            return False
        try:
            for side in [error.side] if error.side is not None else Side:
                await self._stores[side].check()
        except FederationError:
            return False
        return True
