"""What a worker did, for people: counters and the last decisions."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

LAST_DECISIONS = 50


@dataclass(frozen=True, slots=True)
class DecisionLine:
    """One finished pass over one key. Times in seconds.

    ``apply_delay_seconds``: of a pass that carried a change over, from the change's own time to now, where that time is known.
    """

    key: str
    action: str
    reason: str
    source: str
    outcome: str
    requests: int
    read_bytes: int
    written_bytes: int
    seconds: float
    apply_delay_seconds: float | None
    attempt: int
    heard_from: str
    """Sources that told of it, comma-separated."""
    at_us: int
    error: str = ""
    requests_by_side: Mapping[str, int] = field(default_factory=dict)
    trace_id: str = ""
    """Also in the ``traceparent`` of its requests."""

    def fields(self) -> dict[str, object]:
        """For a log line, which has a time of its own."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "at_us"}


@dataclass(slots=True)
class WorkerStats:
    """Counts since the process started."""

    outcomes: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    requests_by_side: Counter[str] = field(default_factory=Counter)
    echoes: int = 0
    """Keys settled without any request because every hint was our own write come back."""
    echo_requests: int = 0
    """Requests spent on them; always 0 unless the engine is broken."""
    read_bytes: int = 0
    written_bytes: int = 0
    on_line: Callable[[DecisionLine], None] | None = None
    """Hears of every line, for metrics."""
    last: deque[DecisionLine] = field(default_factory=lambda: deque(maxlen=LAST_DECISIONS))

    def add(self, line: DecisionLine) -> None:
        """Count one line."""
        self.outcomes[line.outcome] += 1
        self.actions[line.action] += 1
        self.requests += line.requests
        self.requests_by_side.update(line.requests_by_side)
        self.read_bytes += line.read_bytes
        self.written_bytes += line.written_bytes
        self.last.append(line)
        if self.on_line is not None:
            self.on_line(line)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "outcomes": dict(self.outcomes),
            "actions": dict(self.actions),
            "requests": self.requests,
            "requests_by_side": dict(self.requests_by_side),
            "echoes": self.echoes,
            "echo_requests": self.echo_requests,
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
        }
