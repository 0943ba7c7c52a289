"""Large transfers under way, in Redis: one record a transfer, one hash of its parts, under the tag of the key's shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import msgspec

from federation.progress import Lease, TransferRecord
from federation.state.calls import Client
from federation.state.faults import redis_faults
from federation.state.layout import Layout
from federation.state.records import key_digest


class RedisTransfers(ABC):
    """See ``record_ports.Transfers``; the docstrings there hold."""

    _redis: Client
    layout: Layout

    @abstractmethod
    async def _run_leased(self, name: str, lease: Lease, keys: list[str], args: list[Any]) -> Any:  # noqa: ANN401 - Redis' types
        """Run a script that compares the lease's token."""

    async def begin_transfer(self, lease: Lease, record: TransferRecord) -> None:
        """As in the port."""
        packed = msgspec.json.encode(replace(record, parts={}))
        await self._run_leased("transfer", lease, self._transfer_keys(record.key), [record.key, packed])

    async def note_part(self, lease: Lease, key: str, number: int, part: str) -> None:
        """As in the port."""
        await self._run_leased("part", lease, self._transfer_keys(key), [key, number, part])

    async def end_transfer(self, lease: Lease, key: str) -> None:
        """As in the port."""
        await self._run_leased("transfer", lease, self._transfer_keys(key), [key, b""])

    async def transfer(self, key: str) -> TransferRecord | None:
        """As in the port; two round trips where there is one, else one."""
        transfers, parts = self._transfer_keys(key)
        with redis_faults():
            packed = await self._redis.hget(transfers, key)
            if packed is None:
                return None
            found: dict[Any, Any] = await self._redis.hgetall(parts)
        record = msgspec.json.decode(packed, type=TransferRecord)
        return replace(record, parts={int(number): part.decode() for number, part in found.items()})

    async def transfers(self, shard: int) -> list[TransferRecord]:
        """As in the port."""
        with redis_faults():
            found: list[Any] = await self._redis.hvals(self.layout.of_shard(shard, "transfers"))
        return [msgspec.json.decode(packed, type=TransferRecord) for packed in found]

    def _transfer_keys(self, key: str) -> list[str]:
        shard = self.layout.shard_of(key)
        return [self.layout.of_shard(shard, "transfers"), self.layout.of_shard(shard, f"parts:{key_digest(key).hex()}")]
