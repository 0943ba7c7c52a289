"""What Redis' faults mean to a caller. One table; anything not in it is a bug and propagates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from redis import exceptions
from redis.auth.err import RequestTokenErr, TokenRenewalErr

from federation.errors import FederationError, RetryLater, UsageError

REASON = "redis_unavailable"
WRONG_CREDENTIALS = (
    exceptions.AuthenticationError,
    exceptions.AuthenticationWrongNumberOfArgsError,
    exceptions.AuthorizationError,
    exceptions.NoPermissionError,
)
AWAY = (
    exceptions.ConnectionError,  # includes BusyLoadingError, MaxConnectionsError
    exceptions.TimeoutError,
    exceptions.InvalidResponse,  # an answer cut short
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.TryAgainError,
    exceptions.ClusterError,  # includes ClusterDownError, MasterDownError; redirected too often
    exceptions.SlotNotCoveredError,
    RequestTokenErr,
    TokenRenewalErr,
    OSError,
)
RIGHTS = "~fed:* +@all -@dangerous +info +cluster|slots"
"""An ACL user needs no more; the contract tests run with it. The last is for a cluster."""
_RIGHTS_WORDS = ("NOPERM", "The user executing the script can't")
_NO_CLUSTER = "Redis Cluster cannot be connected"
_AWAY_WORDS = (
    "LOADING",
    "READONLY",
    "OOM",
    "MISCONF",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOREPLICAS",
    "UNKILLABLE",
    "BUSY ",
    "TRYAGAIN",
    _NO_CLUSTER,
    "slots are covered",
)
"""Also what a script's command was refused with, which comes wrapped in the script's own error."""
_NO_LOGIN = re.compile(r"unknown command\W+(AUTH|HELLO)\b", re.IGNORECASE)
_OF_THE_CLIENT = (exceptions.ConnectionError, exceptions.TimeoutError)
_SETTING_WORDS = {
    "Cluster mode is not enabled": "Redis is one server, not a cluster. Set redis.cluster = false, or leave it out.",
    "certificate is not valid for": "Redis' certificate is of another host. Correct redis.url to a name that is in it.",
    "certificate has expired": "Redis' certificate has expired. Have it renewed on the server.",
    "CERTIFICATE_VERIFY_FAILED": "Redis' certificate is not one we trust. Name its authority's file in redis.ca_file.",
}


def translate(error: Exception) -> FederationError | None:
    """The error to raise instead of *error*; None when it is not Redis being away but a bug."""
    text = str(error)
    if _refused(error) or any(words in text for words in _RIGHTS_WORDS):
        return UsageError(
            f"Redis refuses our credentials or rights ({type(error).__name__}). Check redis.username_env, redis.password_env, "
            f"redis.auth and what the user may do: `{RIGHTS}` is enough (docs/architecture.md, Rights in Redis).",
            reason="redis_credentials",
        )
    if isinstance(error, exceptions.AskError):  # and MovedError; a cluster's client follows these by itself
        return UsageError("Redis is a cluster. Set redis.cluster = true, or leave it out.", reason="bad_settings")
    if _NO_LOGIN.search(text):  # and its text has the password in it
        return UsageError(
            "Redis does not know the command by which we log in. Leave out redis.username_env and redis.password_env, "
            "or correct redis.url: something else may listen there.",
            reason="redis_credentials",
        )
    for words, advice in _SETTING_WORDS.items():
        if words in text:
            return UsageError(advice, reason="bad_settings")
    told = isinstance(error, exceptions.ResponseError | exceptions.RedisClusterException)
    if isinstance(error, AWAY) or _closed_underneath(error) or (told and any(word in text for word in _AWAY_WORDS)):
        return RetryLater(f"Redis cannot be used now: {_tellable(error, text)}{_advice(error, text)}", reason=REASON)
    return None


def _refused(error: BaseException) -> bool:
    """Who may not ask a cluster for its slots is told by redis-py that there is none."""
    told: BaseException | None = error
    while isinstance(told, exceptions.RedisClusterException):
        told = told.__cause__ or told.__context__
    return isinstance(told, WRONG_CREDENTIALS)


def _tellable(error: Exception, text: str) -> str:
    """What the client says of a connection is told; of what a server answered only what we know, since it may quote anything."""
    if type(error) in _OF_THE_CLIENT or isinstance(error, OSError):
        return text[:200].rstrip(".") or type(error).__name__
    word = next((one for one in _AWAY_WORDS if one in text), "")
    return f"{type(error).__name__} {word}".rstrip()


def _advice(error: Exception, text: str) -> str:
    """What to do where nobody answers. redis.url is only named: a password may be in it."""
    away = type(error) in _OF_THE_CLIENT or isinstance(error, OSError) or _NO_CLUSTER in text
    return "; start it, or correct redis.url." if away else ""


def _closed_underneath(error: Exception) -> bool:
    """A cluster's client that looks anew who serves what closes connections others are using: they find None in redis-py."""
    if not isinstance(error, AttributeError) or error.obj is not None or error.__traceback__ is None:
        return False
    frame, _ = list(walk_tb(error.__traceback__))[-1]
    return str(frame.f_globals.get("__name__", "")).startswith("redis.")


@contextmanager
def redis_faults() -> Iterator[None]:
    """Translate what is raised inside."""
    try:
        yield
    except FederationError:
        raise
    except Exception as error:
        translated = translate(error)
        if translated is None:
            raise
        raise translated from error
