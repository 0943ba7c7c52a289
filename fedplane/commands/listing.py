"""Lists of what may be a million records: so many of the oldest, or all of them printed as they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Generic

import msgspec
import typer

from federation.ports import State
from federation.state.lists import Waiting, count, oldest, records
from federation.state.redis_state import RedisState
from fedplane.output import table

MOST = 1_000
"""Records of a pair that are printed where nobody says how many; rows of a table that are aligned together."""
LimitOption = Annotated[int, typer.Option("--limit", min=0, help="Print so many of each pair, the oldest; 0: all, in no order.")]


def redis_of(state: State) -> RedisState:
    """*state*, as what the commands' states are."""
    if not isinstance(state, RedisState):
        raise TypeError("the state of a pair is in Redis")
    return state


@dataclass
class Listing:
    """One JSON array, or a table, printed a piece at a time; begins with the first record and is ended by ``end``."""

    heading: tuple[str, ...]
    as_json: bool
    last: list[str] = field(default_factory=list)
    """Lines below the table."""
    _rows: list[tuple[str, ...]] = field(default_factory=list)
    _begun: bool = False

    def add(self, told: object, row: tuple[str, ...]) -> None:
        """One record: what JSON tells of it, and its row."""
        if self.as_json:
            self._tell(told)
            return
        self._rows.append(row)
        if len(self._rows) >= MOST:
            self._print_rows()

    def more(self, pair: str, left: int, limit: int) -> None:
        """Of *pair*, *left* records are not printed."""
        if self.as_json:
            self._tell({"pair": pair, "more": left, "limit": limit})
        else:
            self.last.append(f"… and {left:,} more of pair {pair}; --limit 0 prints all")

    def end(self, nothing: str) -> None:
        """Text says *nothing* when there was none."""
        if self.as_json:
            print("]" if self._begun else "[]", flush=True)
            return
        if self._rows:
            self._print_rows()
        print("\n".join(self.last) if self._begun else nothing, end="\n" if self.last or not self._begun else "", flush=True)

    def _tell(self, told: object) -> None:
        print("," if self._begun else "[", msgspec.json.encode(told).decode(), sep="", end="")
        self._begun = True

    def _print_rows(self) -> None:
        print(table(self._rows if self._begun else [self.heading, *self._rows]), flush=True)
        self._begun, self._rows = True, []


@dataclass(frozen=True)
class Kind(Generic[Waiting]):
    """How records of one kind are told, with the name of their pair: in JSON, and as a row."""

    record: type[Waiting]
    told: Callable[[str, Waiting], dict[str, object]]
    row: Callable[[str, Waiting], tuple[str, ...]]


async def print_records(state: State, pair: str, kind: Kind[Waiting], limit: int, out: Listing) -> None:
    """Print the oldest *limit* of *pair* (0: all, in no order) and say how many are left."""
    redis = redis_of(state)
    there = await count(redis.calls, redis.layout, kind.record)
    pieces = records(redis.calls, redis.layout, kind.record)
    if limit == 0:
        async for piece in pieces:
            _add(piece, pair, kind, out)
        return
    found = await oldest(pieces, limit)
    _add(found, pair, kind, out)
    if len(found) < there:
        out.more(pair, there - len(found), limit)


def _add(found: Iterable[Waiting], pair: str, kind: Kind[Waiting], out: Listing) -> None:
    for one in found:
        out.add(kind.told(pair, one), kind.row(pair, one))
