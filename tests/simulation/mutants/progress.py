"""Defects in what is remembered: marks, claims, leases, cursors, echoes, budgets."""

from __future__ import annotations

from typing import Any

from federation.model import Base, Change, Side
from federation.sources import event_grid_queue, vast_kafka
from federation.state.memory_records import MemoryRecords
from federation.state.memory_state import MemoryState
from federation.sync.worker import Worker
from reconciler import scan as scan_module
from tests.simulation.mutants.mutant import Mutant, Swap


def _generation_ignored() -> list[Swap]:
    original = MemoryState.settle

    async def settle(self: MemoryState, lease: Any, key: str, generation: int, base: Base | None) -> bool:
        dirty = self._dirty.get(key)
        if dirty is not None and dirty.claimed:
            dirty.claimed = dirty.generation
        return await original(self, lease, key, dirty.generation if dirty is not None else generation, base)

    return [Swap(MemoryState, "settle", settle)]


def _lease_unchecked() -> list[Swap]:
    async def acquire(self: MemoryState, shard: int, *, owner: str, ttl_seconds: float) -> Any:
        self._owners.pop(shard, None)
        return await original(self, shard, owner=owner, ttl_seconds=ttl_seconds)

    original = MemoryState.acquire

    def owned(*_: Any) -> None:
        return None

    return [Swap(MemoryState, "_owned", owned), Swap(MemoryState, "acquire", acquire)]


def _cursor_before_marks() -> list[Swap]:
    original = vast_kafka.VastKafka._take

    async def take(self: Any, records: Any) -> Any:
        await self._move({partition: batch[-1].offset + 1 for partition, batch in records.items()})
        return await original(self, records)

    return [Swap(vast_kafka.VastKafka, "_take", take)]


def _acknowledged_before_marks() -> list[Swap]:
    original = event_grid_queue.EventGridQueue._read

    def read(self: Any, message: Any) -> Any:
        parsed = original(self, message)
        self._queue._queue.messages.pop(message.id, None)
        self._queue._queue.visible.pop(message.id, None)
        self._queue._deleted(message.told)
        return parsed

    return [Swap(event_grid_queue.EventGridQueue, "_read", read)]


def _echo_by_timer() -> list[Swap]:
    original = MemoryState._is_echo

    def is_echo(self: MemoryState, change: Change) -> bool:
        base = self._base.get(change.key)
        recent = base is not None and base.vast_as_of_us > self._clock.now_us() - 3_000_000
        return recent or original(self, change)

    return [Swap(MemoryState, "_is_echo", is_echo)]


def _echo_by_etag_alone() -> list[Swap]:
    def told_by(self: Base, side: Side, at: Any) -> bool:
        del self, side, at
        return True

    return [Swap(Base, "told_by", told_by)]


def _tombstone_forgotten() -> list[Swap]:
    original = MemoryState.settle

    async def settle(self: MemoryState, lease: Any, key: str, generation: int, base: Base | None) -> bool:
        return await original(self, lease, key, generation, None if base is not None and base.deleted else base)

    return [Swap(MemoryState, "settle", settle)]


def _budget_ignored() -> list[Swap]:
    async def reserve(*_: Any, **__: Any) -> bool:
        return True

    return [Swap(MemoryRecords, "reserve_delete", reserve)]


def _claims_never_reclaimed() -> list[Swap]:
    async def reclaim(*_: Any, **__: Any) -> None:
        return None

    return [Swap(Worker, "_reclaim", reclaim)]


def _lost_records_not_relisted() -> list[Swap]:
    async def relist(*_: Any) -> int:
        return 0

    return [Swap(scan_module, "relist", relist)]


def _lag_from_the_mark() -> list[Swap]:
    original = MemoryState._mark

    def mark(self: MemoryState, change: Change) -> bool:
        known = change.key in self._dirty and change.side in self._dirty[change.key].since_us
        done = original(self, change)
        if done and not known:
            self._dirty[change.key].since_us[change.side] = self._clock.now_us()
        return done

    return [Swap(MemoryState, "_mark", mark)]


def _state_gone_back_unnoticed() -> list[Swap]:
    async def require(*_: Any) -> None:
        return None

    return [Swap(vast_kafka.VastKafka, "_require_cursors", require)]


PROGRESS = [
    Mutant("generation_ignored", "a settle drops what was marked meanwhile", _generation_ignored),
    Mutant("lease_unchecked", "every process works on every shard", _lease_unchecked),
    Mutant("cursor_before_marks", "the Kafka cursor moves before the marks", _cursor_before_marks),
    Mutant("acknowledged_before_marks", "queue messages are deleted before the marks", _acknowledged_before_marks),
    Mutant("echo_by_timer", "whatever comes soon after our write is its echo", _echo_by_timer),
    Mutant("echo_by_etag_alone", "on VAST the ETag alone makes an echo", _echo_by_etag_alone),
    Mutant("tombstone_forgotten", "agreed deletes are not remembered", _tombstone_forgotten),
    Mutant("budget_ignored", "deletes are not counted", _budget_ignored),
    Mutant("claims_never_reclaimed", "claims forgotten by a failover stay claimed", _claims_never_reclaimed),
    Mutant("records_not_relisted", "conflict records lost with the state stay lost", _lost_records_not_relisted, first=4050),
    Mutant("lag_from_the_mark", "lag counts from the mark, not from the change", _lag_from_the_mark),
    Mutant("state_gone_back_unnoticed", "a cursor that went back is not noticed", _state_gone_back_unnoticed, first=4035),
]
