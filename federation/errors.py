"""Errors by what the caller does about them.

    FederationError
    ├── RetryLater      come back after a while: throttled, unreachable, timed out
    ├── Reobserve       the world moved (a failed precondition): read again and decide again
    ├── Park            this key needs a person or a change: archived, locked, name refused
    ├── Halt            the whole pair must stop: container gone, credentials refused, side emptied
    ├── NotPresent      the object is not there (and the container is): the only error that means absent
    ├── LeaseLost       another process owns the shard now: stop working on it, nothing was changed
    └── UsageError      a setting, argument or file is wrong; the text says which and what to do

Each adapter translates its SDK's exceptions in one table. Texts never hold secrets (rule 10).
"""

from __future__ import annotations

from federation.model import Side


class FederationError(Exception):
    """Base. ``reason`` is a short stable snake_case word, the text is for a person.

    ``left_etag``: of the object that a write of ours left damaged under the key; empty where it left none.
    """

    def __init__(self, message: str, *, reason: str = "", key: str = "", side: Side | None = None, left_etag: str = "") -> None:
        super().__init__(message)
        self.left_etag = left_etag
        self.reason = reason
        self.key = key
        self.side = side


class RetryLater(FederationError):
    """Come back after ``after_seconds`` (the service's Retry-After) or by back-off when None.

    ``answered``: by the side itself and in full, if not with what was asked for; so it is no sign that the side fails.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        key: str = "",
        side: Side | None = None,
        after_seconds: float | None = None,
        answered: bool = False,
        left_etag: str = "",
    ) -> None:
        super().__init__(message, reason=reason, key=key, side=side, left_etag=left_etag)
        self.after_seconds = after_seconds
        self.answered = answered


class Reobserve(FederationError):
    """A precondition failed: what was decided from is no longer there. Observe and decide again."""


class Park(FederationError):
    """Nothing to do for this key until it changes or a person acts. ``reason`` names the class."""


class Halt(FederationError):
    """The pair must stop in the named state ``reason``. Nothing is deleted or written until it is lifted."""


class NotPresent(FederationError):
    """The object does not exist while its container does. The only error that may become ``Absent`` (rule 3)."""


class LeaseLost(FederationError):
    """A state script refused the lease token. Nothing was changed; stop working on that shard."""


class UsageError(FederationError):
    """A user's mistake: names the setting, file or key and what to do next. Shown without traceback."""
