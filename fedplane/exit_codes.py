"""What the exit status of every command means (README, 'Commands')."""

from __future__ import annotations

from federation.errors import FederationError, Halt, RetryLater, UsageError
from federation.rules.guards import BUCKET_SWAPPED, PAIR_OPTIONS_CHANGED

OK = 0
PROBLEMS = 1
"""The command worked and found problems: doctor, an incomplete reconcile, a demo that did not converge."""
USAGE = 2
"""Wrong usage, settings or arguments."""
UNREACHABLE = 3
"""A side or Redis cannot be reached, a container is missing, or credentials are refused."""
HALTED = 4
"""A pair is halted."""
BUG = 70
"""A fault of ours; the log holds the traceback."""

TEXT = (
    "Exit codes: 0 done; 1 problems found; 2 wrong usage or settings; 3 a side or Redis cannot be reached, a container is "
    "missing or credentials are refused; 4 a pair is halted; 70 a bug of ours."
)


def for_error(error: FederationError) -> int:
    """The status that *error* ends a command with."""
    match error:
        case UsageError():
            return USAGE
        case Halt() if error.reason.startswith((PAIR_OPTIONS_CHANGED, BUCKET_SWAPPED)):
            return HALTED
        case RetryLater() | Halt():
            return UNREACHABLE
        case _:
            return PROBLEMS
