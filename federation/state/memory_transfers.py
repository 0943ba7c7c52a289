"""Large transfers under way, in memory. See ``MemoryState``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from federation.progress import Lease, TransferRecord


class MemoryTransfers(ABC):
    """See ``record_ports.Transfers``; the docstrings there hold."""

    _transfers: dict[str, TransferRecord]

    @abstractmethod
    def shard_of(self, key: str) -> int:
        """As in the port."""

    @abstractmethod
    def _owned(self, lease: Lease) -> None:
        """Raise LeaseLost when the token is refused."""

    async def begin_transfer(self, lease: Lease, record: TransferRecord) -> None:
        """As in the port."""
        self._owned(lease)
        self._transfers[record.key] = replace(record, parts={})

    async def note_part(self, lease: Lease, key: str, number: int, part: str) -> None:
        """As in the port."""
        self._owned(lease)
        if key in self._transfers:
            self._transfers[key].parts[number] = part

    async def end_transfer(self, lease: Lease, key: str) -> None:
        """As in the port."""
        self._owned(lease)
        self._transfers.pop(key, None)

    async def transfer(self, key: str) -> TransferRecord | None:
        """As in the port."""
        found = self._transfers.get(key)
        return None if found is None else replace(found, parts=dict(found.parts))

    async def transfers(self, shard: int) -> list[TransferRecord]:
        """As in the port."""
        return [replace(one, parts={}) for key, one in self._transfers.items() if self.shard_of(key) == shard]
