"""W3C trace context: one trace from the event that told of a key, through the work on it, to the requests of both stores.

A trace goes from the mark to the work inside one process only: the state knows nothing of it. Work that another process took up,
or that no event brought a trace for, begins one of its own.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from contextvars import ContextVar

from federation.model import Change, Trace

HEADER = "traceparent"
_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?")
_MOST_KEYS = 10_000
"""Marked and not yet worked on here; beyond, the oldest are forgotten."""
_LONGEST = 256


def headers(trace: Trace) -> dict[str, str]:
    """For one request, which is a span of its own."""
    return {HEADER: f"00-{trace.trace_id}-{secrets.token_hex(8)}-{trace.flags}"}


current: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The trace of the key at work in this task; set by the worker."""


def read(text: object) -> Trace | None:
    """The trace that a ``traceparent`` names; None for what is none, which is ignored as the standard says."""
    found = _FORM.fullmatch(text) if isinstance(text, str) and len(text) <= _LONGEST else None
    return Trace(found[1], found[2]) if found else None


def new() -> Trace:
    """A trace that begins here."""
    return Trace(secrets.token_hex(16))


class Traces:
    """Traces of keys that were marked here and wait for their work."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, Trace] = OrderedDict()

    def note(self, changes: Iterable[Change]) -> None:
        """Remember the newest one of each key that came with one."""
        for change in changes:
            if change.trace is not None:
                self._of[change.key] = change.trace
                self._of.move_to_end(change.key)
        while len(self._of) > _MOST_KEYS:
            self._of.popitem(last=False)

    def begin(self, key: str) -> Trace:
        """The trace under which *key* is worked on now, also for the requests of this task."""
        trace = self._of.pop(key, None) or new()
        current.set(trace)
        return trace
