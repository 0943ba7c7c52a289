"""What users do and what breaks, as data drawn from a seed: so that a failing run can be cut down and replayed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from federation.model import Foreign, Mode, Side
from tests.simulation.loop import Spans

KEYS = ("a", "b/c", "d e+f", "\u00e9/g.h", "k5", "k6")
AWKWARD = {"a": "a:b", "b/c": 'q?"/x.', "d e+f": "d\\e+ f", "\u00e9/g.h": "\u00e9//g|h", "k5": "..", "k6": "\uff1ak/"}
"""Keys in their place that one side or the other has to spell in another way."""
PROCESSES = ("p1", "p2")


@dataclass(frozen=True, slots=True)
class Act:
    """One thing a user does, or one fault. ``amount`` is seconds, steps or a count, as the kind wants."""

    at: float
    kind: str
    side: Side = Side.BLOB
    key: str = ""
    other: str = ""
    amount: float = 0.0
    number: int = 0
    """Tells contents apart."""

    def __str__(self) -> str:
        extra = f" -> {self.other}" if self.other else ""
        return f"{self.at:8.3f} {self.kind} {self.side} {self.key}{extra} {self.amount:g} #{self.number}"


@dataclass(frozen=True, slots=True)
class Rates:
    """How often things go wrong by themselves while the script runs."""

    call_before: float = 0.0
    """Store call fails before its effect."""
    call_after: float = 0.0
    """Store call takes effect and its answer is lost."""
    slow: float = 0.0
    """Store call takes many seconds."""
    state_before: float = 0.0
    state_after: float = 0.0
    broker: float = 0.0
    event_lost: float = 0.0
    event_twice: float = 0.0
    event_late: float = 0.0
    late_seconds: float = 60.0
    latency_seconds: float = 0.02
    listing_cut: float = 0.0
    """A page of a listing breaks off."""
    slow_state: float = 0.0
    """State call takes seconds, now and then more than a lease."""
    slow_broker: float = 0.0
    """Call of the queue or the topic takes seconds."""


@dataclass(frozen=True, slots=True)
class Script:
    """One whole run."""

    seed: int
    mode: Mode
    tie_winner: Side
    processes: int
    shards: int
    skew_us: dict[Side, int]
    drift_ppm: dict[Side, int]
    conditions: bool
    """Whether VAST honours conditional writes."""
    stamps: bool
    page: int
    delete_budget: int
    scan_seconds: float
    rates: Rates
    users: tuple[Act, ...]
    faults: tuple[Act, ...]
    mixed_settings: bool = False
    new_settings: bool = False
    """Whoever starts again does so under other settings, of those that may change."""
    deletes_ignored: tuple[Side, ...] = ()
    """Sides to which deletes are not carried."""
    foreign: Foreign = Foreign.KEEP
    revert_limit: int = 1000
    rejects: bool = False
    """The operator refuses some of the held deletes."""
    retries: bool = False
    """The operator tries parked keys again, a few times."""
    patience_seconds: float = 0.0
    """How long a held delete waits for the operator."""
    rich: bool = False
    """Users write several metadata entries, and some that VAST has no room for."""
    versioned: bool = False
    versioned_not: Side | None = None
    """The side that keeps no versions where the other one does."""
    ignored: tuple[str, ...] = ()
    """Conditions of VAST's that are ignored by themselves, by the names of ``Capabilities``."""
    feed_lag_seconds: float = 0.0
    """How late the change feed is at most; 0: there is none."""
    grid_lost: float = 0.0
    """Share of Event Grid's events that are lost besides: the change feed has them."""
    scans: bool = True
    """Without: what converges does so by events alone."""
    scan_at_start: bool = False
    """Without ``scans``: one scan at a start all the same, and those that a gap asks for."""
    drawn: Spans | None = None
    """Choices of the schedule that are drawn; None: all of them."""

    def keeps_versions(self, side: Side) -> bool:
        """Whether *side* does."""
        return self.versioned and side is not self.versioned_not

    @property
    def end(self) -> float:
        """When the last act is done."""
        lasting = [(act.at, act.amount if act.kind != "file_touch" else 0.0) for act in (*self.users, *self.faults)]
        return max((at + max(0.0, amount) for at, amount in lasting), default=0.0)

    def without_noise(self) -> Script:
        """The same with nothing failing by itself."""
        return replace(self, rates=Rates(latency_seconds=self.rates.latency_seconds))
