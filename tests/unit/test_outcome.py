"""What becomes of a key whose work did not end in a settle."""

from __future__ import annotations

import pytest

from federation.errors import FederationError, Halt, NotPresent, Park, Reobserve, RetryLater
from federation.model import Side
from federation.sync.apply import DeleteHeld
from federation.sync.outcome import NOT_THE_KEYS_FAULT, Deferred, Ending, ToHalt, ToHold, ToPark, ending
from federation.sync.sync_key import NotQuiet

NOW = 1_000_000_000


def _ending(error: Exception, attempts: int = 0) -> Ending:
    return ending(error, attempts=attempts, max_attempts=5, now_us=NOW)


@pytest.mark.parametrize("reason", sorted(NOT_THE_KEYS_FAULT))
def test_a_far_end_fault_never_counts_against_the_key(reason: str) -> None:
    """However often a side is away, its keys stay in the queue."""
    what = _ending(RetryLater("away", reason=reason, after_seconds=3), attempts=99)

    assert what == Deferred(NOW + 3_000_000, "away", count_attempt=False)


def test_a_key_that_alone_is_not_answered_for_waits_longer_and_longer_and_is_never_parked() -> None:
    """It costs the side little then, and comes back by itself once it is answered for; other faults have attempts left."""
    error = RetryLater("500", reason="server_error")
    counts = []
    for attempts in (0, 1, 2, 9, 99):
        what = ending(error, attempts=attempts, max_attempts=5, now_us=NOW, alone=True)
        assert isinstance(what, Deferred)
        counts.append(what.count_attempt)
        full_us = min(200_000 * 2**attempts, 120_000_000)
        assert full_us / 2 <= what.at_us - NOW <= full_us
    assert counts == [True, True, False, False, False]


def test_a_key_that_keeps_failing_is_parked_with_its_last_reason() -> None:
    """A fault of the key itself is retried with back-off and then shown to a person."""
    error = RetryLater("bytes do not match", reason="content_mismatch")

    first = _ending(error)
    assert isinstance(first, Deferred)
    assert first.count_attempt
    assert first.at_us > NOW
    assert _ending(error, attempts=5) == ToPark("content_mismatch", "bytes do not match")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotQuiet(NOW + 5), Deferred(NOW + 5, "", count_attempt=False)),
        (DeleteHeld(Side.VAST), ToHold(Side.VAST)),
        (Park("archived", reason="archived"), ToPark("archived", "archived")),
    ],
)
def test_instructions_are_followed(error: Exception, expected: Ending) -> None:
    """Errors that are instructions translate one to one."""
    assert _ending(error) == expected


def test_halts_name_the_state_and_keep_the_key() -> None:
    """A halt stops the pair and the key comes back by itself; only refused credentials lift themselves."""
    gone = _ending(Halt("the container is gone", reason="container_missing"))
    refused = _ending(Halt("403", reason="credentials_refused"))

    assert isinstance(gone, ToHalt)
    assert isinstance(refused, ToHalt)
    assert (gone.name, gone.self_lifting) == ("container_missing", False)
    assert (refused.name, refused.self_lifting) == ("credentials_refused", True)
    assert not gone.deferred.count_attempt


@pytest.mark.parametrize("error", [ValueError("bug"), Reobserve("moved"), NotPresent("gone"), FederationError("?")])
def test_no_error_drops_a_key(error: Exception) -> None:
    """Even a bug ends in a retry first and in a parked key at last."""
    assert isinstance(_ending(error), Deferred)
    assert isinstance(_ending(error, attempts=5), ToPark)
