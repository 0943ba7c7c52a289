"""What Redis' faults mean to a caller. One table; anything not in it is a bug and propagates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions

from federation.errors import FederationError, RetryLater, UsageError

REASON = "redis_unavailable"
_WRONG_CREDENTIALS = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_AWAY = (
    exceptions.ConnectionError,  # includes BusyLoadingError, MaxConnectionsError
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.MasterDownError,
    exceptions.OutOfMemoryError,
    OSError,
)
_AWAY_WORDS = ("LOADING", "READONLY", "OOM", "MISCONF", "CLUSTERDOWN", "MASTERDOWN", "UNKILLABLE", "BUSY ", "TRYAGAIN")


def translate(error: Exception) -> FederationError | None:
    """The error to raise instead of *error*; None when it is not Redis being away but a bug."""
    if isinstance(error, _WRONG_CREDENTIALS):
        return UsageError(
            f"Redis refuses our credentials or rights ({type(error).__name__}). Check redis.username_env and redis.password_env.",
            reason="redis_credentials",
        )
    text = str(error)
    if isinstance(error, _AWAY) or (isinstance(error, exceptions.ResponseError) and any(word in text for word in _AWAY_WORDS)):
        return RetryLater(f"Redis cannot be used now: {text[:200] or type(error).__name__}", reason=REASON)
    return None


@contextmanager
def redis_faults() -> Iterator[None]:
    """Translate what is raised inside."""
    try:
        yield
    except Exception as error:
        translated = translate(error)
        if translated is None:
            raise
        raise translated from error
