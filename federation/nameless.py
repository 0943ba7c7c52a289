"""Names in a side's listing that no key has (docs/names.md): left out of it, and told to whoever reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar

import msgspec

from federation.model import Side

EXAMPLES = 3


class Nameless(msgspec.Struct):
    """Such names of one side, in one span of keys."""

    count: int = 0
    examples: list[str] = []
    last: bytes = b""
    """The greatest that was counted: a listing that is read again, or on from its middle, counts none twice."""

    def add(self, others: int, examples: Iterable[str]) -> None:
        """Count more of them."""
        self.count += others
        self.examples = [*self.examples, *examples][:EXAMPLES]


Found = dict[Side, Nameless]
"""By side; a side without any is not there."""


class Ear:
    """Hears of the names of listings and counts those after *after*, up to and including *until* (empty: to the end).

    Also of sides that had to be sorted: *reordered* says whether on disk.
    """

    def __init__(self, found: Found, after: str = "", until: str = "", reordered: dict[Side, bool] | None = None) -> None:
        self._found = found
        self._reordered = {} if reordered is None else reordered
        self._after, self._until = _order(after), _order(until)
        self._counted: dict[Side, bytes] = {}

    def begin(self, side: Side) -> None:
        """A listing of *side* begins: what listings before it told up to here is counted."""
        self._counted[side] = self._found[side].last if side in self._found else b""

    def reorder(self, side: Side, *, on_disk: bool) -> None:
        """A listing of *side* came out of order and is sorted, on disk or in memory."""
        self._reordered[side] = on_disk or self._reordered.get(side, False)

    def hear(self, side: Side, name: str) -> None:
        """One name, without the pair's prefix, in the server's order."""
        order = _order(name)
        if order <= max(self._after, self._counted[side]) or (self._until and order > self._until):
            return
        one = self._found.setdefault(side, Nameless())
        one.add(1, [name.encode(errors="backslashreplace").decode()])
        one.last = max(one.last, order)


heard: ContextVar[Ear] = ContextVar("heard")
"""Who hears of the names that listings read in this task leave out; set by whoever reads them."""


def merge(whole: Found, part: Found) -> None:
    """Add what was found in another span."""
    for side, one in part.items():
        whole.setdefault(side, Nameless()).add(one.count, one.examples)


def text(found: Mapping[Side, Nameless]) -> list[str]:
    """A line for each side that has any."""
    return [
        f"LEFT OUT on {side}: {one.count:,} names that stand for no key, such as {', '.join(map(repr, one.examples))}; "
        "nobody synchronises them: see docs/names.md"
        for side, one in sorted(found.items())
    ]


def _order(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
