"""When to try again, and when to leave a side alone (design 8). The only retry policy: SDKs' own are switched down."""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.backoff import LONGEST_BACKOFF_SECONDS, backoff_seconds
from federation.errors import RetryLater
from federation.model import Side
from federation.ports import Clock


@dataclass(slots=True)
class Gate:
    """Keeps callers away from a side that asked for rest or cannot be reached; opens by itself.

    Every call passes ``admit``, and reports with ``succeeded`` or ``failed``. ``failing_since_us`` is None while the last answer
    was good, so status can say honestly that a side cannot be read (rule 9).
    """

    side: Side
    clock: Clock
    failures: int = 0
    closed_until_seconds: float = 0.0
    failing_since_us: int | None = None
    answered_seconds: float = float("-inf")
    """Monotonic time of the last good answer."""
    last_error: str = ""
    throttles: int = field(default=0)

    def closed_for_seconds(self) -> float:
        """How long callers should stay away; 0 when open."""
        return max(0.0, self.closed_until_seconds - self.clock.monotonic_seconds())

    def admit(self) -> None:
        """Raise RetryLater while the gate is closed, without sending anything."""
        wait = self.closed_for_seconds()
        if wait > 0:
            raise RetryLater(
                f"the {self.side} side asked for rest or cannot be reached: {self.last_error}",
                reason="paced",
                side=self.side,
                after_seconds=wait,
            )

    def succeeded(self) -> None:
        """A call was answered."""
        self.failures = 0
        self.failing_since_us = None
        self.answered_seconds = self.clock.monotonic_seconds()

    def failed(self, error: RetryLater) -> None:
        """A call was throttled or went unanswered: close for its Retry-After, else by back-off over consecutive failures."""
        self.throttles += 1
        self.last_error = str(error)
        if self.failing_since_us is None:
            self.failing_since_us = self.clock.now_us()
        pause = error.after_seconds if error.after_seconds is not None else backoff_seconds(self.failures, first_seconds=0.25)
        self.failures += 1
        self.closed_until_seconds = max(
            self.closed_until_seconds, self.clock.monotonic_seconds() + min(pause, LONGEST_BACKOFF_SECONDS)
        )
