"""The oracle of progress: nothing heard is forgotten, nothing known is asked again, and lag is told as it is."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from federation.metadata import digest
from federation.model import Base, Change, Side
from federation.state.memory_state import MemoryState
from tests.simulation.channels import Told
from tests.simulation.claims import ROUNDING_US, SLACK_US, Claims
from tests.simulation.oracle import Oracle, Write
from tests.simulation.sides import SKEW_ERROR_US, START_US
from tests.simulation.values import md5_of

_Waiting = list[tuple[int, int]]


@dataclass
class Progress:
    """Hears of every call of the state that took effect."""

    oracle: Oracle
    state: Callable[[], MemoryState]
    losses: Callable[[], int]
    """How often the state was lost or went back."""
    marked: dict[tuple[Side, str], float] = field(default_factory=dict)
    outstanding: dict[tuple[Side, str], _Waiting] = field(default_factory=dict)
    """Marked and not yet settled: the time of each change, and the serial number of its mark."""
    claims: Claims = field(init=False)
    agreed_since: dict[str, float] = field(default_factory=dict)
    """Keys that both sides held by the base, with the virtual time since when."""
    settled: dict[str, float] = field(default_factory=dict)
    """Keys whose absence both sides agreed on, with the virtual time since when."""
    given_up: set[str] = field(default_factory=set)
    """Keys that were parked and have not been equal since: news of one side ends a parking, also where it is none."""
    _taken: dict[str, int] = field(default_factory=dict)
    _claimed: dict[str, int] = field(default_factory=dict)
    _claimed_at: dict[str, float] = field(default_factory=dict)
    _lost: int = 0
    _serial: count[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.claims = Claims(self.oracle)
        self.oracle.wrote = self.claims.wrote

    def _forget_if_lost(self) -> None:
        """What was outstanding is not known any more."""
        if self.losses() == self._lost:
            return
        self._lost = self.losses()
        for known in (self.outstanding, self.agreed_since, self.settled, self._taken, self._claimed):
            known.clear()

    def heard(self, change: Change, taken: bool, dirty: bool) -> None:
        """One change was marked: taken, or dropped as an echo; *dirty*: its key was before."""
        self._forget_if_lost()
        if taken:
            self._taken[change.key] = next(self._serial)
            at, now_us = change.at, self.oracle.servers[change.side].clock.now_us()
            # Of a time in whole seconds any moment of that second may be the true one, and of none any of before its mark.
            # A time in the future of its side's clock is no truth either, nor is the now of a marker whose clock was set ahead.
            set_ahead_us = self.state()._clock.now_us() - START_US - int(asyncio.get_running_loop().time() * 1e6)
            marked_us = now_us + 2 * SKEW_ERROR_US + max(0, set_ahead_us)
            at_us = min(at.at_us + at.precision_us - 1, marked_us) if at is not None else marked_us
            self.outstanding.setdefault((change.side, change.key), []).append((at_us, self._taken[change.key]))
            if not dirty and change.deleted:
                self._known_delete(change)
            elif not dirty:
                self.claims.taken(change, self.state()._base.get(change.key))
        else:
            self._news_dropped(change)

    def _known_delete(self, change: Change) -> None:
        """The event of a delete that we carried out ourselves and recorded tells nothing new (rule 7)."""
        ours = self.oracle.deleted_by_engine.get((change.side, change.key))
        gone = all(change.key not in server.objects for server in self.oracle.servers.values())
        if ours is None or change.at is None or not gone or abs(ours[0] - change.at.at_us) > ROUNDING_US:
            return
        if self.settled.get(change.key, -1.0) > ours[1]:
            self.oracle.fail(f"the echo of our own delete of {change.side}:{change.key} was taken for news")

    def _news_dropped(self, change: Change) -> None:
        base = self.state()._base.get(change.key)
        if change.side is not Side.VAST or base is None or not base.live or change.at is None or change.etag is None:
            return
        for write in self.oracle.writes:
            same = (write.side, write.key) == (change.side, change.key) and abs(write.told_us - change.at.at_us) <= ROUNDING_US
            if same and self._differs(write, base) and change.at.at_us > base.vast_as_of_us + SLACK_US:
                self.oracle.fail(f"the event of #{write.number} on vast:{write.key} was dropped as an echo")

    @staticmethod
    def _differs(write: Write, base: Base) -> bool:
        return md5_of(write.value[0]) != base.md5 or digest(write.metadata) != base.metadata_digest

    def called(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        """A state call took effect."""
        self._forget_if_lost()
        now = asyncio.get_running_loop().time()
        if name == "mark":
            self.marked.update(((change.side, change.key), now) for change in arguments[0])
        elif name == "claim":
            for claim in result:
                self._claimed[claim.hint.key], self._claimed_at[claim.hint.key] = next(self._serial), now
                self.claims.claimed(claim)
        elif name in {"settle", "park", "hold"}:
            self.claims.ended(arguments[1], name)
            self._ended(name, arguments, now)
        elif name == "forget_bases":  # of keys that neither side holds: from then on no base knows of them
            self.agreed_since = {key: since for key, since in self.agreed_since.items() if key in self.state()._base}
        self._lag_is_honest()

    def _ended(self, name: str, arguments: tuple[Any, ...], now: float) -> None:
        key = arguments[1]
        if name == "park":
            self.given_up.add(key)
        elif self.oracle.is_equal(key):
            self.given_up.discard(key)
        for side in Side:
            self.outstanding[side, key] = [one for one in self.outstanding.get((side, key), []) if self._is_newer(side, key, one)]
        news = self._taken.get(key, 0) > self._claimed.get(key, sys.maxsize)
        # After a failover numbers repeat: an old claim's settle may take a newer hint for its own. The scan finds what it told.
        if news and key not in self.state()._dirty and key not in self.oracle.concerned:
            self.oracle.fail(f"{name} dropped what was marked for {key} meanwhile")
        if name == "settle":
            base = self.state()._base.get(key)  # what came of it: a repeat has no effect
            told = arguments[3]
            self.claims.agreed(key, told, self._claimed_at.get(key, now))
            kept = (
                base.deleted if base is not None else key not in self.oracle.concerned
            )  # after a failover an old settle has no effect
            if told is not None and told.deleted and kept:
                self.settled[key] = now
            else:
                self.settled.pop(key, None)
            if base is not None and base.blob_etag and base.vast_etag:
                self.agreed_since.setdefault(key, now)
            else:
                self.agreed_since.pop(key, None)

    def _is_newer(self, side: Side, key: str, waiting: tuple[int, int]) -> bool:
        """Whether a change was marked after the claim that has ended, and happened after it too: that one is not yet applied."""
        at_us, serial = waiting
        happened = (at_us - START_US - self.oracle.servers[side].clock.ahead_us()) / 1e6
        newer = serial > self._claimed.get(key, sys.maxsize) and happened > self._claimed_at.get(key, 0.0)
        return newer and key in self.state()._dirty

    def _lag_is_honest(self) -> None:
        """The oldest change that was marked and not yet applied is never younger in the state than in truth (rule 9)."""
        dirty = self.state()._dirty.values()
        for side in Side:
            ours = self.oldest_us(side)
            told = min((one.since_us[side] for one in dirty if side in one.since_us), default=None)
            if ours is not None and (told is None or told > ours):
                self.oracle.fail(f"lag of {side} under-reported: a change of {ours} is waiting, the oldest told is {told}")

    def oldest_us(self, side: Side) -> int | None:
        """By the side's clock: the oldest change that was marked and not yet applied; None: there is none."""
        self._forget_if_lost()
        return min((at for place, them in self.outstanding.items() if place[0] is side for at, _ in them), default=None)

    def acknowledged(self, told: Told) -> None:
        """A source let go of an event: it must have been marked (rule 6)."""
        if not told.key.startswith(".federation/") and self.marked.get((told.side, told.key), -1.0) < told.sent:
            self.oracle.fail(f"an event of {told.side}:{told.key} was let go before its mark")
