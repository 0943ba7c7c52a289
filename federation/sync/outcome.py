"""What becomes of a claimed key when its work does not end in a settle: pure translation of errors to state steps."""

from __future__ import annotations

from dataclasses import dataclass

from federation.backoff import backoff_seconds
from federation.errors import FederationError, Halt, Park, RetryLater
from federation.model import Side, Stamp
from federation.rules.guards import SELF_LIFTING_HALTS
from federation.sync.apply import DeleteHeld
from federation.sync.sync_key import NotQuiet

NOT_THE_KEYS_FAULT = frozenset(
    {"paced", "throttled", "unreachable", "timeout", "server_error", "cut_short", "redis_unavailable", "bulk_busy", "at_work"}
)
"""Reasons of RetryLater that say nothing about the key: they are retried for ever and never count as attempts, but for what
lies with the key alone (``blame``): that counts, so that it waits longer and longer, and is retried for ever too."""
_LEFT_FOR_OTHER_REASONS = 3
"""Attempts that such a key has left, when something else fails."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Try again at ``at_us``."""

    at_us: int
    error: str
    count_attempt: bool


@dataclass(frozen=True, slots=True)
class ToPark:
    """Take it off the dirty set, for a person or a change."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ToHold:
    """Keep the delete for a person."""

    delete_on: Side
    deleted: Stamp | None = None


@dataclass(frozen=True, slots=True)
class ToHalt:
    """Stop the pair, keep the key."""

    name: str
    detail: str
    self_lifting: bool
    deferred: Deferred


Ending = Deferred | ToPark | ToHold | ToHalt

_HALT_RECHECK_SECONDS = 10.0


def ending(error: Exception, *, attempts: int, max_attempts: int, now_us: int, alone: bool = False) -> Ending:
    """What to do with the key whose work raised *error*, *alone* among the keys of its side.

    Unknown exceptions are bugs: retried, then parked, never dropped.
    """
    match error:
        case NotQuiet():
            return Deferred(error.until_us, "", count_attempt=False)
        case DeleteHeld():
            return ToHold(error.delete_on, error.deleted)
        case Halt():
            name = error.reason or "halted"
            back = Deferred(_later(now_us, _HALT_RECHECK_SECONDS), str(error), count_attempt=False)
            return ToHalt(name, str(error), name in SELF_LIFTING_HALTS, back)
        case RetryLater() if error.reason in NOT_THE_KEYS_FAULT:
            own = backoff_seconds(attempts, first_seconds=0.2) if alone else backoff_seconds(0)
            wait = error.after_seconds if error.after_seconds is not None else own
            counts = alone and attempts < max_attempts - _LEFT_FOR_OTHER_REASONS
            return Deferred(_later(now_us, wait), str(error), count_attempt=counts)
    if isinstance(error, Park) or attempts >= max_attempts:
        return _to_park(error)
    told = error.after_seconds if isinstance(error, RetryLater) else None
    wait = told if told is not None else backoff_seconds(attempts, first_seconds=0.2)
    text = str(error) if isinstance(error, FederationError) else f"internal error: {error!r}"
    return Deferred(_later(now_us, wait), text, count_attempt=True)


def _to_park(error: Exception) -> ToPark:
    if isinstance(error, FederationError):
        return ToPark(error.reason or "retries_exhausted", str(error))
    return ToPark("internal_error", repr(error))


def _later(now_us: int, seconds: float) -> int:
    return now_us + int(seconds * 1_000_000)
