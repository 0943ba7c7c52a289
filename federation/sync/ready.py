"""Which shard is looked at next."""

from __future__ import annotations

_TURNS = 4


class ReadyShards:
    """Shards in which something may be due, in the order they were named; and those in which a change was announced.

    These are looked at for announced changes alone, and come first but for every fourth time: so a fresh change waits for a few
    keys and not for a backlog or a round of all shards, and nothing else waits for ever.
    """

    def __init__(self) -> None:
        self._announced: dict[int, None] = {}
        self._all: dict[int, None] = {}
        self._turn = 0

    def add(self, shard: int, *, announced: bool = False) -> None:
        """Something may be due in *shard*."""
        (self._announced if announced else self._all)[shard] = None

    def take(self) -> tuple[int | None, bool]:
        """The next one, which is then no longer ready, and whether for announced changes alone; None when none is."""
        self._turn = (self._turn + 1) % _TURNS
        announced = bool(self._announced) and (self._turn != 0 or not self._all)
        some = self._announced if announced else self._all
        if not some:
            return None, False
        shard = next(iter(some))
        del some[shard]
        return shard, announced

    def discard(self, shard: int) -> None:
        """Whatever was due in *shard* is looked at now."""
        self._announced.pop(shard, None)
        self._all.pop(shard, None)

    def __contains__(self, shard: int) -> bool:
        """Whether something may be due in *shard*."""
        return shard in self._announced or shard in self._all
