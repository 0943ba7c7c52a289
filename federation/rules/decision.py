"""What can be decided, as a closed set of frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from federation.model import SECOND_US, Foreign, Mode, Side


class Action(StrEnum):
    """What to do about a key."""

    NOTHING = "nothing"
    """Both sides are as the base says."""
    WAIT = "wait"
    """A side could not be read."""
    HASH = "hash"
    """Whether the contents are equal decides, and it is not known: read and hash ``sides``, then decide again."""
    ADOPT = "adopt"
    """Both sides agree already: record it, move nothing."""
    COPY = "copy"
    """Carry content and metadata from ``source`` to the other side."""
    METADATA = "metadata"
    """Carry metadata only: the contents are equal."""
    DELETE = "delete"
    """Delete on the side that is not ``source``; ``source`` is the side where the object is gone."""
    KEEP = "keep"
    """Leave the difference alone, by rule, and remember that."""


class Reason(StrEnum):
    """Why, for people and metrics."""

    UNREADABLE = "unreadable"
    IN_STEP = "in_step"
    EQUAL = "equal"
    SIZE_AND_TIME = "size_and_time"
    EQUALITY_UNKNOWN = "equality_unknown"
    BOTH_ABSENT = "both_absent"
    NEW = "new"
    RECREATED = "recreated"
    CHANGED = "changed"
    METADATA_CHANGED = "metadata_changed"
    DELETED = "deleted"
    DELETE_IGNORED = "delete_ignored"
    EDIT_BEATS_DELETE = "edit_beats_delete"
    DELETE_BEATS_EDIT = "delete_beats_edit"
    LATER_WRITE = "later_write"
    ONLY_KNOWN_TIME = "only_known_time"
    TIE = "tie"
    READ_ONLY_ZONE = "read_only_zone"
    FOREIGN_IN_ZONE = "foreign_in_zone"
    REJECTED_DELETE = "rejected_delete"


@dataclass(frozen=True, slots=True)
class Rules:
    """What ``decide`` may depend on besides the observations. Times are microseconds."""

    mode: Mode = Mode.TWO_WAY
    tie_winner: Side = Side.BLOB
    deletes_to_blob: bool = True
    deletes_to_vast: bool = True
    foreign: Foreign = Foreign.KEEP
    rebuilding: bool = False
    """The base was lost and no whole scan has run since: what looks foreign may have been agreed on (design 4.5, union mode)."""
    adopt_by_size_and_time: bool = False
    """The operator's word: what was never agreed on and has equal size and file time on both sides is equal."""
    clock_uncertainty_us: int = SECOND_US // 2
    """How far the clocks of one side's servers may be apart; configured."""
    vast_ahead_us: int = 0
    """VAST's clock minus Blob's, measured; VAST's own times are corrected by it (design 4.3)."""
    skew_uncertainty_us: int = 0
    """How far off that measurement may be."""

    def deletes_to(self, side: Side) -> bool:
        """Whether a delete may be carried to *side*."""
        return self.deletes_to_blob if side is Side.BLOB else self.deletes_to_vast


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision. ``preserve`` names the side whose present version loses and must be kept before it is overwritten."""

    action: Action
    reason: Reason
    source: Side | None = None
    preserve: Side | None = None
    sides: tuple[Side, ...] = ()
    """Sides to hash, for HASH."""

    @property
    def reverts(self) -> bool:
        """Whether it undoes what somebody did in a read-only zone."""
        writes = self.action in (Action.COPY, Action.METADATA, Action.DELETE)
        return writes and self.reason in (Reason.READ_ONLY_ZONE, Reason.FOREIGN_IN_ZONE)

    @property
    def destination(self) -> Side:
        """The side written to. Raises ValueError for decisions without a source."""
        if self.source is None:
            raise ValueError(f"{self.action} has no direction")
        return self.source.other
