"""How long to wait before trying again. Pure but for its jitter."""

from __future__ import annotations

import random

LONGEST_BACKOFF_SECONDS = 120.0


def backoff_seconds(attempts: int, *, first_seconds: float = 1.0, jitter: float | None = None) -> float:
    """``2^n`` times *first_seconds*, at most 120 s, of which a random half (*jitter* in [0, 1), for tests) is taken off."""
    full = min(LONGEST_BACKOFF_SECONDS, first_seconds * 2.0 ** min(attempts, 16))
    part = random.random() if jitter is None else jitter  # noqa: S311 - spreads load, guards nothing
    return full * (1.0 - part / 2.0)
