"""What every listener counts and tells."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from federation.errors import RetryLater
from federation.payloads import Parsed
from federation.ports import Clock
from federation.progress import MarkResult
from federation.telemetry import logger

_log = logger("fedplane.sources")
_LONGEST_PAUSE_SECONDS = 30


class OnGap(Protocol):
    """Called when a source knows that something changed under *prefix* (of keys) that it cannot name; ``""``: anywhere."""

    async def __call__(self, prefix: str = "") -> None:
        """Ask for a scan. Durable once it returned, so that what follows may be acknowledged (rule 6). Raises RetryLater."""
        ...


@dataclass(slots=True)
class Tell:
    """Counters and state of one source, for ``Source.health``."""

    source: str
    counts: Counter[str] = field(default_factory=Counter)
    connected: bool = False
    last_error: str = ""
    newest_us: int = 0
    """Time of the newest event ever read, by the service's clock. It says nothing of what waits: see ``waiting``."""
    waiting: dict[str, int | None] = field(default_factory=dict)
    """Parts of the source (partitions; ``""`` where it has none) with more to read, and the time by the service's clock up to
    which each was read; None: not known, since nothing of it was read yet or since the service keeps no order."""
    position: dict[str, int] = field(default_factory=dict)

    @property
    def behind(self) -> bool:
        """More waits to be read."""
        return bool(self.waiting)

    @property
    def read_to_us(self) -> int | None:
        """No event that waits is older, as far as parts are in order, by the service's clock; None: not known, or none waits."""
        known = [at_us for at_us in self.waiting.values() if at_us is not None]
        return min(known) if known and len(known) == len(self.waiting) else None

    def parsed(self, parsed: Parsed) -> None:
        """Count one parsed payload; what names another account or container is told once a reason, then counted."""
        self.newest_us = max(self.newest_us, parsed.newest_us)
        for reason, count in parsed.refused.items():
            if not self.counts[f"refused_{reason}"]:
                _log.warning("event refused", source=self.source, reason=reason)
            self.counts[f"refused_{reason}"] += count
        for reason, count in parsed.ignored.items():
            self.counts[f"ignored_{reason}"] += count

    def marked(self, result: MarkResult) -> None:
        """Count one mark."""
        self.counts["marked"] += result.marked
        self.counts["echoes"] += result.echoes

    def dead(self, reason: str) -> None:
        """Count a record that could not be parsed; it was kept."""
        self.counts["dead_lettered"] += 1
        _log.warning("record kept as dead letter", source=self.source, reason=reason)

    def up(self) -> None:
        """The far end answers."""
        if not self.connected:
            _log.info("source connected", source=self.source)
        self.connected = True
        self.last_error = ""

    def down(self, error: BaseException | str) -> None:
        """The far end does not answer."""
        text = str(error)[:300]
        if self.connected or text != self.last_error:
            _log.warning("source cannot be read", source=self.source, error=text)
        self.connected = False
        self.last_error = text

    def as_dict(self) -> dict[str, str | int | float | None]:
        """For health."""
        flat: dict[str, str | int | float | None] = dict(sorted(self.counts.items()))
        flat |= {
            "connected": int(self.connected),
            "behind": int(self.behind),
            "read_to_us": self.read_to_us,
            "last_error": self.last_error,
            "newest_us": self.newest_us or None,
        }
        return flat | {f"position_{name}": at for name, at in sorted(self.position.items())}

    def patiently(self, clock: Clock, *faults: type[Exception]) -> AsyncRetrying:
        """Attempts without end, with back-off, after RetryLater, a timeout or one of *faults*; each is shown in health."""
        return AsyncRetrying(
            retry=retry_if_exception_type((RetryLater, TimeoutError, *faults)),
            wait=wait_exponential_jitter(multiplier=0.5, max=_LONGEST_PAUSE_SECONDS),
            sleep=clock.sleep,
            before_sleep=lambda state: self.down(state.outcome.exception() or "") if state.outcome else None,
        )


async def ask_scans(parsed: Parsed, on_gap: OnGap) -> None:
    """Ask for the scans that *parsed* needs, before anything of it is acknowledged. Raises RetryLater."""
    for prefix in sorted(parsed.scan_prefixes):
        await on_gap(prefix)
