"""Fault knobs of a proxy: what happens to events, and what happens to requests. Set by flag and at run time."""

from __future__ import annotations

import msgspec

Share = float
STATUSES = (403, 404, 429, 500, 503)


class EventFaults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What happens to events on their way. Shares are between 0 and 1."""

    drop: Share = 0.0
    duplicate: Share = 0.0
    delay_seconds: tuple[float, float] = (0.0, 0.0)
    """Each event waits a random time between these."""
    reorder: int = 1
    """Events are shuffled in groups of this size (or of what came within half a second)."""
    seed: int | None = None


class RequestFaults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What happens to requests."""

    error: Share = 0.0
    status: int = 503
    """503, 429 and 500: overload. 404: the container or bucket is not there. 403: the credentials are refused."""
    retry_after_seconds: int | None = 1
    latency_ms: float = 0.0
    cut: Share = 0.0
    """Connections closed instead of answered."""
    cut_after_effect: bool = False
    """The server did the work and only the answer is lost."""
    cut_midway: Share = 0.0
    """Connections closed in the middle of an object's content, read or written."""
    corrupt: Share = 0.0
    """Contents in which one byte is changed, read or written; the headers stay as they are."""
    emptied: bool = False
    """As if nothing were mounted there: listings are empty, and what is read is not found. Writes pass."""
    list_pages: int | None = None
    """So many pages of listings are answered; each further one waits until the knobs are set again."""
    client: str = ""
    """``fedplane`` or ``user``: only requests of that client; empty: all."""
    for_seconds: float | None = None
    """They end by themselves after this time."""


class Faults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All knobs of one side."""

    events: EventFaults = msgspec.field(default_factory=EventFaults)
    requests: RequestFaults = msgspec.field(default_factory=RequestFaults)


def check(faults: Faults) -> None:
    """Raise ValueError naming the first knob out of its range."""
    for place, name, value in (
        ("events", "drop", faults.events.drop),
        ("events", "duplicate", faults.events.duplicate),
        ("requests", "error", faults.requests.error),
        ("requests", "cut", faults.requests.cut),
        ("requests", "cut_midway", faults.requests.cut_midway),
        ("requests", "corrupt", faults.requests.corrupt),
    ):
        if not 0 <= value <= 1:
            raise ValueError(f"{place}.{name} is a share between 0 and 1, not {value}")
    low, high = faults.events.delay_seconds
    if not 0 <= low <= high:
        raise ValueError("events.delay_seconds is two numbers, the smaller first")
    if faults.events.reorder < 1:
        raise ValueError("events.reorder is a group size of at least 1")
    if faults.requests.list_pages is not None and (faults.requests.list_pages < 0 or faults.requests.for_seconds is not None):
        raise ValueError(
            "requests.list_pages is a number of at least 0, and without for_seconds: pages wait for the next setting"
        )
    if faults.requests.client not in ("", "fedplane", "user"):
        raise ValueError('requests.client is "fedplane", "user" or empty')
    if faults.requests.status not in STATUSES:
        raise ValueError(f"requests.status is one of {', '.join(map(str, STATUSES))}")
