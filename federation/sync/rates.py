"""The arithmetic of pacing: a token bucket, and a limit of concurrency that follows latency and throttles. No I/O."""

from __future__ import annotations

from federation.ports import Clock

_BURST_SECONDS = 1.0


class TokenBucket:
    """Lets through what a rate allows, with bursts of a second of it; more is lent and waited for, in the order of taking.

    The rate may change between any two calls. None: no limit, and no debt.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._taken = 0.0
        self._earned = 0.0
        self._at_seconds = float("-inf")
        """When was last earned; long ago: so a whole burst is there."""

    def take(self, amount: float, rate_per_second: float | None) -> float:
        """Take *amount*; what ``wait`` is to be asked about."""
        self._earn(rate_per_second)
        self._taken += amount
        return self._taken if amount else 0.0

    def wait(self, due: float, rate_per_second: float | None) -> float:
        """Seconds until what *due* stands for is earned, if the rate stays."""
        self._earn(rate_per_second)
        return 0.0 if rate_per_second is None else max(0.0, (due - self._earned) / rate_per_second)

    def _earn(self, rate_per_second: float | None) -> None:
        if rate_per_second is None:
            self._earned, self._at_seconds = self._taken, float("-inf")
            return
        now = self._clock.monotonic_seconds()
        earned = self._earned + (now - self._at_seconds) * rate_per_second
        self._earned = min(self._taken + rate_per_second * _BURST_SECONDS, earned)
        self._at_seconds = now


_START = 64
_FEW = 16
"""Latency alone neither brings nor keeps the limit below this: what makes answers slow may not be us."""
_SLOW_TIMES = 4.0
_SLOW_SLACK_SECONDS = 0.05
"""Answers count as slow past so many times the best ones, and this much more."""
_SMOOTHING = 16
_WINDOW_ANSWERS = 2_000
"""The best latency is that of the last one to two windows."""
_AFTER_CUT_SECONDS = 1.0


class AdaptiveLimit:
    """How many calls at once (AIMD): one more for each round of good answers, half after a throttle, a tenth less while slow."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = ceiling
        self._limit = float(min(_START, ceiling))
        self._recent = 0.0
        self._best = self._best_before = float("inf")
        self._answers = 0
        self._cut_seconds = float("-inf")

    @property
    def whole(self) -> int:
        """The limit, at least 1."""
        return max(1, int(self._limit))

    def answered(self, seconds: float, now_seconds: float) -> int:
        """A good answer took *seconds*; the limit now."""
        self._answers += 1
        if self._answers % _WINDOW_ANSWERS == 0:
            self._best_before, self._best = self._best, float("inf")
        self._best = min(self._best, seconds)
        self._recent += (seconds - self._recent) / min(self._answers, _SMOOTHING)
        if self._slow and self._limit > _FEW and now_seconds - self._cut_seconds >= _AFTER_CUT_SECONDS:
            self._limit, self._cut_seconds = max(_FEW, self._limit * 0.9), now_seconds
        return self.answered_untimed()

    def answered_untimed(self) -> int:
        """A good answer to a call whose time says nothing; the limit now. Slow or not, it grows to a few."""
        if self._limit < _FEW or not self._slow:
            self._limit = min(self._ceiling, self._limit + 1.0 / self._limit)
        return self.whole

    def throttled(self, now_seconds: float) -> int:
        """The side asked for less; answers to one burst count once. The limit now."""
        if now_seconds - self._cut_seconds >= _AFTER_CUT_SECONDS:
            self._limit, self._cut_seconds = max(1.0, self._limit / 2), now_seconds
        return self.whole

    @property
    def _slow(self) -> bool:
        return self._recent > min(self._best, self._best_before) * _SLOW_TIMES + _SLOW_SLACK_SECONDS
