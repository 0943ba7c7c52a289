"""How far behind the change feed is, in the three forms that can be known (facts/azure.md 2.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from operations.wording import ago, iso, size

SOURCE = "change_feed"
STALLED_SECONDS = 300.0
"""Unread bytes for longer than this are told as a stall: the service adds about once a minute."""

Told = Mapping[str, str | int | float | None]


class FeedLag(msgspec.Struct, kw_only=True):
    """No newer record is not lag: a quiet account has none. Times in microseconds since 1970 UTC; None: not known."""

    reading: bool
    """A process reads the feed now, and its last look succeeded."""
    last_error: str
    newest_us: int | None
    """Time of the newest record marked."""
    index_modified_us: int | None
    """When the service last wrote the feed's index."""
    unread_bytes: int | None
    """Found up to ``lastConsumable`` and not marked yet; a lower bound while ``segments_waiting``."""
    unread_since_us: int | None
    segments_waiting: int | None
    as_of_us: int | None
    """Every change of before this that the service has published was marked: the watermark of this source."""

    def text(self, now_us: int) -> str:
        """One line for people."""
        if not self.reading:
            return f"NOT READ: {self.last_error or 'no process has told of it'}; read up to {iso(self.as_of_us)}"
        unread = self.unread_bytes or 0
        waiting = f" in what was looked at, {self.segments_waiting} segments not looked at yet" if self.segments_waiting else ""
        left = f"{size(unread)} unread{waiting}" if unread or self.segments_waiting else "nothing unread"
        since = (now_us - self.unread_since_us) / 1_000_000 if self.unread_since_us else 0.0
        stall = f" FOR {ago(since)}" if since > STALLED_SECONDS else ""
        return (
            f"{left}{stall}; newest record {_age(self.newest_us, now_us)}, index written {_age(self.index_modified_us, now_us)}; "
            f"complete as of {iso(self.as_of_us)}"
        )


def feed_lag(told: Iterable[Told]) -> FeedLag | None:
    """From what each process says of the feed; the one that reads counts. None: no process has the feed."""
    best = max(told, key=lambda one: (bool(one.get("connected")), _number(one, "as_of_us") or 0), default=None)
    if best is None:
        return None
    return FeedLag(
        reading=bool(best.get("connected")),
        last_error=str(best.get("last_error") or ""),
        newest_us=_number(best, "newest_us"),
        index_modified_us=_number(best, "index_modified_us"),
        unread_bytes=_number(best, "unread_bytes"),
        unread_since_us=_number(best, "unread_since_us"),
        segments_waiting=_number(best, "segments_waiting"),
        as_of_us=_number(best, "as_of_us"),
    )


def _number(told: Told, name: str) -> int | None:
    value = told.get(name)
    return int(value) if isinstance(value, int | float) else None


def _age(at_us: int | None, now_us: int) -> str:
    return f"{ago(max(0, now_us - at_us) / 1_000_000)} ago" if at_us is not None else "unknown"
