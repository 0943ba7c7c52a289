"""When and how fast to ask a side, and when to leave it alone (design 8).

SDKs' own retries are switched off, but for azure-identity's: it repeats by itself when it asks for a token (IMDS, Entra ID).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from federation.backoff import LONGEST_BACKOFF_SECONDS, backoff_seconds
from federation.bandwidth import Timetable
from federation.errors import RetryLater
from federation.model import Side
from federation.ports import Clock
from federation.sync.budget import FairPool, Room, flow
from federation.sync.rates import AdaptiveLimit, TokenBucket

TRIP_FAILURES = 3
"""Failures in a row, without an answer between them, after which a side is left alone: one cut connection says little."""
_CUTS_REMEMBERED_SECONDS = 600.0
"""Longer than the longest pause between two attempts at a key."""
PROBE_SECONDS = 10.0
"""How long the one probe of a side that was left alone may take before another is let through."""
_PROBE_POLL_SECONDS = 0.1
SMALL_BODY_BYTES = 256 * 1024
"""Bodies up to this size do not wait behind parts of large objects for their share of the bandwidth."""
_LOOK_SECONDS = 5.0
"""Who waits for the rates looks so often whether they are others: another time of day, more processes or fewer."""
LONGEST_REST_SECONDS = 5.0
"""A listing waits no longer for a page: a range of a scan is owned for 30 s, kept every 10, and reads two sides in turn."""
_MOMENT_SECONDS = 0.001
"""Nobody waits for less: what is lent is waited for by the next."""


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """See ``settings.PacingSettings``. ``processes`` of them share one endpoint."""

    requests_per_second: float | None = None
    bandwidth: Timetable | None = None
    max_concurrency: int = 256


@dataclass(slots=True)
class Gate:
    """What all calls to one endpoint pass: limits of rate, of bytes and of calls at once, and a circuit breaker.

    A call holds the place that ``enter`` gives and is reported with ``succeeded`` or ``failed``. The breaker closes the gate for
    a Retry-After, else by back-off over failures in a row; then one probe is let through, and its answer opens the gate.
    ``failing_since_us`` is None while the last answer was good, so status can say honestly that a side cannot be read (rule 9).
    """

    side: Side
    clock: Clock
    limits: PaceLimits = PaceLimits()
    jitter: Callable[[], float | None] = lambda: None
    """For tests: see ``backoff.backoff_seconds``."""
    failures: int = 0
    closed_until_seconds: float = 0.0
    failing_since_us: int | None = None
    answered_seconds: float = float("-inf")
    """Monotonic time of the last good answer."""
    last_error: str = ""
    throttles: int = field(default=0)
    tripped: bool = False
    """Closed, or open for one probe only."""
    trips: int = 0
    """Times it was closed since the last good answer."""
    sharers: int = 1
    """Processes that use this endpoint, of each rate each takes its part."""
    endpoint: str = ""
    """What it is in front of, as ``GateBook`` names it: processes know it by that name."""
    adaptive: AdaptiveLimit = field(init=False)
    _cut: dict[str, float] = field(default_factory=dict)
    """When the body of an object broke off, by key, since one came."""
    _slots: FairPool = field(init=False)
    _requests: TokenBucket = field(init=False)
    _bytes: TokenBucket = field(init=False)
    _few_bytes: TokenBucket = field(init=False)
    _probe_until_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.adaptive = AdaptiveLimit(self.limits.max_concurrency)
        self._slots = FairPool(self.adaptive.whole)
        self._requests = TokenBucket(self.clock)
        self._bytes = TokenBucket(self.clock)
        self._few_bytes = TokenBucket(self.clock)

    # ---------------------------------------------------------------------------------------------------- circuit breaker

    def closed_for_seconds(self) -> float:
        """How long callers should stay away; 0 when they may try."""
        now = self.clock.monotonic_seconds()
        wait = max(0.0, self.closed_until_seconds - now)
        if wait == 0 and self.tripped and self._probe_until_seconds > now:
            return _PROBE_POLL_SECONDS
        return wait

    def admit(self) -> None:
        """As ``look``; of a half-open gate one caller is the probe."""
        self.look()
        if self.tripped:
            self._probe_until_seconds = self.clock.monotonic_seconds() + PROBE_SECONDS

    def look(self) -> None:
        """Raise RetryLater while the gate is closed, without sending anything."""
        wait = self.closed_for_seconds()
        if wait > 0:
            raise RetryLater(
                f"the {self.side} side asked for rest or cannot be reached: {self.last_error}",
                reason="paced",
                side=self.side,
                after_seconds=wait,
            )

    @property
    def trouble(self) -> tuple[int, float]:
        """Another once a call failed, or the gate was closed."""
        return self.throttles, self.closed_until_seconds

    def abandoned(self) -> None:
        """A call was cancelled before its answer: if it was the probe, the next caller is."""
        self._probe_until_seconds = 0.0

    def succeeded(self) -> None:
        """A call was answered."""
        self.failures = self.trips = 0
        self.tripped = False
        self.failing_since_us = None
        self.answered_seconds = self.clock.monotonic_seconds()

    def failed(self, error: RetryLater) -> None:
        """A call was throttled or went unanswered."""
        self.throttles += 1
        self.last_error = str(error)
        if self.failing_since_us is None:
            self.failing_since_us = self.clock.now_us()
        now = self.clock.monotonic_seconds()
        if error.after_seconds is not None or error.reason == "throttled":
            self._resize(self.adaptive.throttled(now))
        if error.after_seconds is not None:
            self.close_until(now + min(error.after_seconds, LONGEST_BACKOFF_SECONDS))
            return
        if self.closed_until_seconds > now:
            return  # sent before it was closed: it tells nothing new
        self.failures += 1
        if self.failures >= TRIP_FAILURES or self.tripped:
            self.close_until(now + backoff_seconds(self.trips, jitter=self.jitter()))
            self.trips += 1

    def cut(self, key: str, error: RetryLater) -> None:
        """The body of *key* broke off. One that cannot be read, however often it is tried, says nothing of the side: several do.

        Also where other requests are answered in between. A probe is always answered for.
        """
        now = self.clock.monotonic_seconds()
        known = key in self._cut
        self._cut = {one: at for one, at in self._cut.items() if now - at < _CUTS_REMEMBERED_SECONDS} | {key: now}
        many = len(self._cut) >= TRIP_FAILURES
        if many:
            self.failures = max(self.failures, TRIP_FAILURES - 1)
        if many or self.tripped or not known:
            self.failed(error)

    def came(self) -> None:
        """A body, or enough of it to tell that they do."""
        self._cut.clear()
        self.succeeded()

    def close_until(self, monotonic_seconds: float) -> None:
        """Leave the side alone until then; also told by other processes."""
        self.tripped = True
        self._probe_until_seconds = 0.0
        self.closed_until_seconds = max(self.closed_until_seconds, monotonic_seconds)

    # -------------------------------------------------------------------------------------------------------------- pace

    async def enter(self) -> Room:
        """Wait for a place among the calls under way and for the rates' leave for a request; the caller closes it.

        What it sends is paid for before (``pay``): who waits for bandwidth holds no place, since it may take minutes, and calls
        that send nothing need not wait for that. Leave for the request comes last, so that who got it and waits for a place does
        not use it later, with all the others at once. Who is inside already waits for nothing: the next ones do.
        """
        if _inside.get() is self:
            self.took(1)
            return Room(self._slots, 0, bulk=False)
        room = await self._slots.room(1, of=flow.get())
        try:
            await self.pay(0, requests=1)
        except BaseException:
            room.close()
            raise
        return room

    @contextmanager
    def inside(self) -> Iterator[None]:
        """In this block the caller holds a place: were it to wait for a second one, all might wait for each other."""
        before = _inside.set(self)
        try:
            yield
        finally:
            _inside.reset(before)

    async def rest(self) -> None:
        """Before a page of a listing: wait for the gate to open and for the rates' leave for a request. Holds no place.

        At most ``LONGEST_REST_SECONDS``; then the page is asked for, and all others wait for what it took.
        """
        until = self.clock.monotonic_seconds() + LONGEST_REST_SECONDS
        while (wait := min(self.closed_for_seconds(), until - self.clock.monotonic_seconds())) > 0:
            await self.clock.sleep(max(wait, _MOMENT_SECONDS))
        await self.pay(0, requests=1, until_seconds=until)

    async def opened(self, until_seconds: float) -> None:
        """Wait for the gate to open. Raises RetryLater (paced) where it stays closed past that monotonic time."""
        while (wait := self.closed_for_seconds()) > 0:
            if self.clock.monotonic_seconds() + wait > until_seconds:
                self.look()
            await self.clock.sleep(max(wait, _MOMENT_SECONDS))

    async def pay(self, size_bytes: int, *, requests: int = 0, until_seconds: float = float("inf")) -> None:
        """Wait as the rates ask, at most *until_seconds* (monotonic): for what is about to be sent, or after bytes were read.

        Small bodies go first: they wait for each other only, and what they take the large ones wait for.
        """
        if self.limits.requests_per_second is None and self.limits.bandwidth is None:
            return
        of_bytes, of_requests = self._rates()
        bucket, due = self._bytes, self._bytes.take(size_bytes, of_bytes)
        if size_bytes <= SMALL_BODY_BYTES:
            bucket, due = self._few_bytes, self._few_bytes.take(size_bytes, of_bytes)
        asked = self._requests.take(requests, of_requests)
        while (wait := max(bucket.wait(due, of_bytes), self._requests.wait(asked, of_requests))) > _MOMENT_SECONDS:
            left = until_seconds - self.clock.monotonic_seconds()
            if left <= _MOMENT_SECONDS:
                return
            await self.clock.sleep(min(wait, _LOOK_SECONDS, left))
            of_bytes, of_requests = self._rates()

    def took(self, requests: int) -> None:
        """So many were made beyond what was paid for: who comes next waits for them."""
        if self.limits.requests_per_second is not None:
            self._requests.take(requests, self._rates()[1])

    def _rates(self) -> tuple[float | None, float | None]:
        """Bytes and requests a second that are our part now."""
        table = self.limits.bandwidth
        of_bytes = table.bytes_per_second(self.clock.now_us()) if table is not None else None
        return self._part_of(of_bytes), self._part_of(self.limits.requests_per_second)

    def answered(self, seconds: float) -> None:
        """How long a call took that moved few bytes: what the number of calls at once follows."""
        self._resize(self.adaptive.answered(seconds, self.clock.monotonic_seconds()))

    def answered_untimed(self) -> None:
        """A call ended well whose time tells of how much there was to do."""
        self._resize(self.adaptive.answered_untimed())

    def _part_of(self, rate: float | None) -> float | None:
        return None if rate is None else rate / self.sharers

    def _resize(self, limit: int) -> None:
        if limit != self._slots.total:
            self._slots.resize(limit)


_inside: ContextVar[Gate | None] = ContextVar("inside", default=None)
"""The gate in which this task holds a place."""
