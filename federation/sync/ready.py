"""Which shard is looked at next."""

from __future__ import annotations


class ReadyShards:
    """Shards in which something may be due, each once, in the order they were named.

    Those in which a change was announced come first every other time: so that it waits for a few keys and not for a round of all
    shards, and nothing else waits for ever.
    """

    def __init__(self) -> None:
        self._first: dict[int, None] = {}
        self._others: dict[int, None] = {}
        self._turn_of_others = False

    def add(self, shard: int, *, announced: bool = False) -> None:
        """Something may be due in *shard*."""
        if announced:
            self._others.pop(shard, None)
            self._first[shard] = None
        elif shard not in self._first:
            self._others[shard] = None

    def take(self) -> int | None:
        """The next one, which is then no longer ready; None when none is."""
        some = self._others if (self._turn_of_others and self._others) or not self._first else self._first
        self._turn_of_others = some is self._first
        if not some:
            return None
        shard = next(iter(some))
        del some[shard]
        return shard

    def discard(self, shard: int) -> None:
        """Whatever was due in *shard* is looked at now."""
        self._first.pop(shard, None)
        self._others.pop(shard, None)

    def __contains__(self, shard: int) -> bool:
        """Whether something may be due in *shard*."""
        return shard in self._first or shard in self._others
