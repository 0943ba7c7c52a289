"""Which partitions of a topic this process reads: a lease for each in the pair's state, shared out fairly, without group joins.

Group joins are delayed by VAST's broker for a configurable time (facts/vast.md 2), and would tie reading to its memory of us.
A lease saves work only: what is read is recorded by compare-and-set, so two readers of one partition do no harm.
"""

from __future__ import annotations

from collections.abc import Iterable

from federation.record_ports import Records

TTL_SECONDS = 10.0
EVERY_SECONDS = 2.0
"""How often shares are looked at and kept."""


class Shares:
    """One process's partitions among those of all processes that read *source* for this pair."""

    def __init__(self, state: Records, source: str, owner: str, *, ttl_seconds: float = TTL_SECONDS) -> None:
        self._state = state
        self._source = source
        self._owner = owner
        self._ttl_seconds = ttl_seconds
        self.processes = 1
        """How many share the topic, as seen last."""

    async def check(self) -> None:
        """Raise RetryLater when the state is away. Takes nothing, and is not counted as a reader."""
        await self._state.owners(f"{self._source}/")

    async def claim(self, partitions: Iterable[int]) -> set[int]:
        """Give back what is above our share, keep the rest, take free ones up to it. Returns what is ours. Raises RetryLater.

        Only for a process that reaches the topic: one that does not must not be counted, or its share would be read by nobody.
        """
        await self._keep(f"{self._source}/reader/{self._owner}")
        owners = await self._state.owners(f"{self._source}/")
        readers = {owner for task, owner in owners.items() if task.startswith(f"{self._source}/reader/")} | {self._owner}
        self.processes = len(readers)
        every = sorted(partitions)
        share = fair_share(len(every), len(readers))
        ours = [one for one in every if owners.get(self._task(one)) == self._owner]
        for one in ours[share:]:
            await self._state.disown(self._task(one), owner=self._owner)
        mine = {one for one in ours[:share] if await self._keep(self._task(one))}
        for one in every:
            if len(mine) >= share:
                break
            if self._task(one) not in owners and await self._keep(self._task(one)):
                mine.add(one)
        return mine

    async def leave(self) -> None:
        """Give everything back, so that the others need not wait for the leases to end. Raises RetryLater."""
        for task, owner in (await self._state.owners(f"{self._source}/")).items():
            if owner == self._owner:
                await self._state.disown(task, owner=self._owner)

    def _task(self, partition: int) -> str:
        return f"{self._source}/partition/{partition}"

    async def _keep(self, task: str) -> bool:
        return await self._state.own(task, owner=self._owner, ttl_seconds=self._ttl_seconds)


def fair_share(partitions: int, processes: int) -> int:
    """At most so many for each, and all are read: partitions over processes, rounded up."""
    return -(-partitions // max(1, processes))
