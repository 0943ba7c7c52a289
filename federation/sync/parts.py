"""How a large object is cut into parts: pure arithmetic (facts/azure.md 3.3, facts/vast.md 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from federation.capabilities import Capabilities
from federation.errors import Park

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PartPlan:
    """Parts of ``part_bytes``, numbered from 1; the last may be shorter."""

    size_bytes: int
    part_bytes: int

    @property
    def count(self) -> int:
        """How many parts; an empty object is one empty part."""
        return max(1, math.ceil(self.size_bytes / self.part_bytes))

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """Number, start and length of each part, in order."""
        for number in range(1, self.count + 1):
            start = (number - 1) * self.part_bytes
            yield number, start, min(self.part_bytes, self.size_bytes - start)


def plan_parts(size_bytes: int, preferred_bytes: int, capabilities: Capabilities, *, memory_bytes: int) -> PartPlan:
    """Parts of *preferred_bytes*; larger ones, in whole MiB, where the object would need more parts than the side allows.

    A part is held in memory whole, since its checksum goes ahead of it.

    Raises:
        Park: reason "too_large": the side cannot hold the object, or one part is larger than *memory_bytes*.
    """
    part = max(preferred_bytes, capabilities.min_part_bytes)
    if part * capabilities.max_parts < size_bytes:
        part = math.ceil(math.ceil(size_bytes / capabilities.max_parts) / _MIB) * _MIB
    if part > capabilities.max_part_bytes:
        most = capabilities.max_parts * capabilities.max_part_bytes
        raise Park(f"{size_bytes} bytes are more than this side takes in parts ({most})", reason="too_large")
    if min(part, size_bytes) > memory_bytes:
        text = f"{size_bytes} bytes need parts of {part} bytes, more than may be held at once: raise transfer.memory_bytes"
        raise Park(f"{text} to {math.ceil(part * 4 / 3 / _MIB) * _MIB} or more", reason="too_large")
    return PartPlan(size_bytes, part)
