"""Which shards are looked at next, and how many keys are taken of each."""

from __future__ import annotations

_TURNS = 4
_SHARDS_AT_ONCE = 2
"""Claimed from at one time: one by one, a fresh change would wait for as many answers of a slow Redis as there are shards."""
_MOST_KEYS, _LEAST_KEYS = 8, 2
_LONG_SECONDS = 0.25


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

    def take(self) -> dict[int, bool]:
        """The next few, which are then no longer ready, and whether for announced changes alone; empty when none is."""
        taken: dict[int, bool] = {}
        while len(taken) < _SHARDS_AT_ONCE:
            turn = (self._turn + 1) % _TURNS
            announced = bool(self._announced) and (turn != 0 or not self._all)
            some = self._announced if announced else self._all
            shard = next((one for one in some if one not in taken), None)
            if shard is None or (turn == 0 and next(iter(some)) in taken):
                break  # the next time its turn comes first: were it passed over, it could be so each time
            self._turn = turn
            del some[shard]
            taken[shard] = announced
        return taken

    def discard(self, shard: int) -> None:
        """Whatever was due in *shard* is looked at now."""
        self._announced.pop(shard, None)
        self._all.pop(shard, None)

    def __contains__(self, shard: int) -> bool:
        """Whether something may be due in *shard*."""
        return shard in self._announced or shard in self._all


class Portion:
    """How many keys a claim takes: few while places for them are long in coming, since a fresh change waits for all of them.

    Many otherwise: keys one by one would cost round trips.
    """

    def __init__(self) -> None:
        self.keys = _MOST_KEYS

    @property
    def newest(self) -> int:
        """So many of them are the changes that came due last: a fresh one waits for a round of the shards, not for a backlog."""
        return max(1, self.keys // 4)

    def placed(self, keys: int, after_seconds: float) -> None:
        """All *keys* of a claim found places."""
        if keys:
            self.keys = max(_LEAST_KEYS, self.keys // 2) if after_seconds > _LONG_SECONDS else min(_MOST_KEYS, self.keys * 2)
