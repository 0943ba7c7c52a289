"""Pure parsers of what sources deliver: bytes to changes. Tolerant of every documented form, strict about what may be named."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from federation.model import Change

EVENT_LIMIT_BYTES = 1024 * 1024
"""No service sends an event above 1 MB (facts/azure.md 1.4, facts/vast.md 2)."""


class Malformed(Exception):
    """The payload is not what the source documents. The text is for people and never quotes the payload."""


@dataclass(slots=True)
class Parsed:
    """What one payload said. ``refused`` counts by reason what names something not this pair's; ``ignored`` the harmless rest."""

    changes: list[Change] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    validation_code: str = ""
    """Of an Event Grid subscription handshake."""
    scan_prefixes: set[str] = field(default_factory=set)
    """Beginnings of keys under which something changed that cannot be named key by key; the empty one: anywhere."""
    newest_us: int = 0
    """Time of the newest event seen."""

    @property
    def needs_scan(self) -> bool:
        """Something changed, and it is not known where."""
        return "" in self.scan_prefixes

    def malformed(self, count: int) -> None:
        """Some events of a delivery could not be read: the others count, and what these told of is for a scan to find."""
        if count:
            self.ignored["malformed_in_batch"] += count
            self.scan_prefixes.add("")
