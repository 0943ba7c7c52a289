"""A pair's state as a file of lines, and back: into an empty state of the same or of another number of shards.

Each line is a JSON object with one field, its kind; the first is ``{"fedplane_state": ...}``, the last ``{"end": ...}`` with
count and hash of those before, so that a file that was cut short or changed is known. Cursors are read first and base records
last: what changes while a running plane is exported is then told again by its source, or dirty, or newer than what is told of
it. A dirty key is written with its sides and times, not with its versions: on import it is looked at, whatever was hinted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, TypeVar

import msgspec

from federation.errors import UsageError
from federation.model import Base, Change, Side, Source, Stamp, StampOrigin
from federation.progress import (
    DEAD_LETTER_BYTES,
    DEAD_LETTERS,
    GAP_NOTE,
    OPTIONS_NOTE,
    ConflictRecord,
    Cursor,
    DeadLetter,
    HaltRecord,
    Held,
    Parked,
)
from federation.state.calls import Calls, script
from federation.state.layout import Layout
from federation.state.marks import Counted
from federation.state.pieces import hash_pieces
from federation.state.records import split_record, unpack_base
from federation.state.schema import SCHEMA

FORMAT = 2
DIGEST_BYTES = 16
MOST = 253_402_300_800_000_000
"""Microseconds to the year 10000: a file may say any time before, and nothing is counted that far."""
_MOST_EXACT = 2**53 - 1
"""Times by which Redis sorts are floating-point numbers there."""
AT_ONCE = 500
LINES_AT_ONCE = 5_000
"""Of an import, so that its hold on the state is renewed while it reads what it has nothing to do with."""
_PROCESS_NOTES = b"process:"
_PAIR_HASHES: dict[str, type[HaltRecord | ConflictRecord]] = {"halts": HaltRecord, "conflicts": ConflictRecord}
_SHARD_HASHES: dict[str, type[Parked | Held]] = {"parked": Parked, "held": Held}
_Record = TypeVar("_Record")
Line = dict[str, Any]


class Header(msgspec.Struct, frozen=True):
    """First line of a file."""

    format: int
    schema: int
    pair: str
    shards: int
    at_us: int


class BaseLine(msgspec.Struct, frozen=True):
    """One base record, under the digest of its key."""

    digest: bytes
    record: bytes


class DirtyLine(msgspec.Struct, frozen=True):
    """A key somebody must look at, with the time of the oldest unapplied change of each side that has one."""

    key: str
    since_us: dict[Side, int]


class Named(msgspec.Struct, frozen=True):
    """A cursor, a note or an intent."""

    name: str
    value: bytes


class End(msgspec.Struct, frozen=True):
    """Last line of a file: how many are before it, and the SHA-256 of these, each with its line feed."""

    lines: int
    sha256: str


class Seal:
    """What the last line has to say after the lines so far."""

    def __init__(self) -> None:
        self._lines = 0
        self._hash = sha256()

    def add(self, line: bytes) -> None:
        """One more, with or without its line feed."""
        self._lines += 1
        self._hash.update(line.removesuffix(b"\n") + b"\n")

    def end(self) -> End:
        """The last line of a file of these."""
        return End(self._lines, self._hash.hexdigest())


async def export(calls: Calls, layout: Layout, *, now_us: int) -> AsyncIterator[bytes]:
    """The lines of the pair's state, each with its line feed."""
    seal = Seal()
    async for line in _lines(calls, layout, now_us):
        text = msgspec.json.encode(line) + b"\n"
        seal.add(text)
        yield text
    yield msgspec.json.encode({"end": seal.end()}) + b"\n"


async def _lines(calls: Calls, layout: Layout, now_us: int) -> AsyncIterator[Line]:
    yield {"fedplane_state": Header(FORMAT, SCHEMA, layout.pair, layout.shards, now_us)}
    for part in (_pair_lines(calls, layout), _shard_lines(calls, layout), _base_lines(calls, layout)):
        async for line in part:
            yield line


async def _pair_lines(calls: Calls, layout: Layout) -> AsyncIterator[Line]:
    [sources] = await calls.pipe([("HKEYS", layout.of_pair("marks"))])
    for source in sorted(name.decode() for name in sources):
        [value] = await calls.pipe([("GET", layout.of_pair(f"cursor:{source}"))])
        if value is not None:
            yield {"cursor": Named(source, value)}
    for kind in _PAIR_HASHES:
        async for _, record in _fields(calls, layout.of_pair(kind)):
            yield {kind: msgspec.Raw(record)}
    async for name, value in _fields(calls, layout.of_pair("notes")):
        if not name.startswith(_PROCESS_NOTES):
            yield {"note": Named(name.decode(), value)}
    [letters] = await calls.pipe([("XRANGE", layout.of_pair("dead"), "-", "+")])
    for _, fields in letters:
        told = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
        yield {"dead": msgspec.Raw(told[b"letter"])}


async def _shard_lines(calls: Calls, layout: Layout) -> AsyncIterator[Line]:
    for shard in range(layout.shards):
        async for fields in hash_pieces(calls, [layout.of_shard(shard, "hint")]):
            for line in await _dirty(calls, layout, shard, [key for key, _ in fields]):
                yield {"dirty": line}
        for kind in _SHARD_HASHES:
            async for _, record in _fields(calls, layout.of_shard(shard, kind)):
                yield {kind: msgspec.Raw(record)}
        async for key, record in _fields(calls, layout.of_shard(shard, "intent")):
            yield {"intent": Named(key.decode(), record)}


async def _dirty(calls: Calls, layout: Layout, shard: int, keys: Sequence[bytes]) -> list[DirtyLine]:
    if not keys:
        return []
    since = dict(zip(Side, await calls.pipe([("ZMSCORE", layout.since(shard, side), *keys) for side in Side]), strict=True))
    return [
        DirtyLine(key.decode(), {side: int(float(at[n])) for side, at in since.items() if at[n] is not None})
        for n, key in enumerate(keys)
    ]


async def _fields(calls: Calls, key: str) -> AsyncIterator[tuple[bytes, bytes]]:
    async for fields in hash_pieces(calls, [key]):
        for field in fields:
            yield field


async def _base_lines(calls: Calls, layout: Layout) -> AsyncIterator[Line]:
    for shard in range(layout.shards):
        buckets = layout.buckets_of(shard)
        for at in range(0, len(buckets), 16):
            for found in await calls.pipe([("HGETALL", bucket) for bucket in buckets[at : at + 16]]):
                for digest, record in whole_records(found).items():
                    yield {"base": BaseLine(digest, record)}


def whole_records(found: Any) -> dict[bytes, bytes]:  # noqa: ANN401 - a hash as redis-py returns it
    """The records of one bucket by digest, put together from their fields."""
    fields: dict[bytes, bytes] = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
    return {name: value + fields.get(name + b"+", b"") for name, value in fields.items() if len(name) == DIGEST_BYTES}


class Importer:
    """Takes the lines of an export into an empty state: first everything but dirty keys, which are marked at last."""

    def __init__(self, calls: Calls, layout: Layout) -> None:
        self._calls = calls
        self._layout = layout
        self._commands: list[tuple[Any, ...]] = []
        self._changes: list[Change] = []
        self._objects = [0] * layout.shards
        self.counts: dict[str, int] = {}
        self._seal = Seal()
        self._ended = False

    def rehearse(self, lines: Iterable[bytes]) -> None:
        """Read the whole file and write nothing. Raises UsageError as ``run`` does."""
        trial = Importer(self._calls, self._layout)
        for _ in trial._taken(lines):
            trial._commands.clear()
            trial._changes.clear()

    async def run(self, lines: Iterable[bytes], hold: Callable[[], Awaitable[None]]) -> None:
        """Write what is no dirty key; *hold* is awaited before each piece: what it raises keeps the piece from being sent.

        Raises UsageError naming the file and the line that is none, or when the file is cut short.
        """
        for number in self._taken(lines):
            self._changes.clear()
            if len(self._commands) >= AT_ONCE or number % LINES_AT_ONCE == 0:
                await hold()
                await self._send()
        for shard, count in enumerate(self._objects):
            self._commands.append(("SET", self._layout.of_shard(shard, "count"), count))
        await hold()
        await self._send()

    def dirty(self, lines: Iterable[bytes]) -> Iterator[list[Change]]:
        """Only the dirty keys, some at a time: to be marked. A piece may be empty: much may lie between two of them."""
        again = Importer(self._calls, self._layout)
        for number in again._taken(lines):
            again._commands.clear()
            if len(again._changes) >= AT_ONCE or number % LINES_AT_ONCE == 0:
                yield again._changes
                again._changes = []
        yield again._changes

    def _taken(self, lines: Iterable[bytes]) -> Iterator[int]:
        """The number of each line, once it is taken."""
        file, number = getattr(lines, "name", "the file"), 0
        for number, text in enumerate(lines, 1):
            try:
                self._take_line(number, text)
            except (msgspec.MsgspecError, ValueError, RecursionError, UsageError) as error:
                raise UsageError(
                    f"Line {number} of {file} is no line of an exported state ({error}). Export it again.", reason="bad_export"
                ) from None
            yield number
        if not self._ended:
            raise UsageError(
                f"{file} is cut short after line {number}: its last line is missing. Export it again.", reason="bad_export"
            )

    def _take_line(self, number: int, text: bytes) -> None:
        [(kind, value)] = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()
        if (number == 1) != (kind == "fedplane_state"):
            raise ValueError("the first line, and only it, tells what the file is")
        if self._ended:
            raise ValueError("the line before it was the last")
        self._take(kind, bytes(value))
        self._seal.add(text)

    async def _send(self) -> None:
        commands, self._commands = self._commands, []
        if commands:
            await self._calls.pipe(commands)

    def _take(self, kind: str, value: bytes) -> None:
        if kind == "fedplane_state":
            check_header(value)
            return
        if kind == "end":
            told, found = msgspec.json.decode(value, type=End), self._seal.end()
            if told.lines != found.lines:
                raise ValueError(f"the file is cut short: it says that {told.lines} lines came before")
            if told.sha256 != found.sha256:
                raise ValueError("something in the lines before was changed: their SHA-256 is another")
            self._ended = True
            return
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._commands += self._written(kind, value)

    def _written(self, kind: str, value: bytes) -> Iterable[tuple[Any, ...]]:
        layout = self._layout
        if kind == "base":
            return self._base(msgspec.json.decode(value, type=BaseLine))
        if kind == "dirty":
            return self._dirty(msgspec.json.decode(value, type=DirtyLine))
        if kind in _SHARD_HASHES:
            key = _exact(msgspec.json.decode(value, type=_SHARD_HASHES[kind])).key
            return [("HSET", layout.of_shard(layout.shard_of(key), kind), key, value)]
        if kind in _PAIR_HASHES:
            record = _exact(msgspec.json.decode(value, type=_PAIR_HASHES[kind]))
            field = record.name if isinstance(record, HaltRecord) else record.conflict_id
            return [("HSET", layout.of_pair(kind), field, value)]
        if kind == "dead":
            return [_buried(layout, _exact(msgspec.json.decode(value, type=DeadLetter)), value)]
        return self._named(kind, msgspec.json.decode(value, type=Named))

    def _base(self, line: BaseLine) -> Iterable[tuple[Any, ...]]:
        if len(line.digest) != DIGEST_BYTES:
            raise ValueError(f"a digest of {len(line.digest)} bytes")
        base = _base_of(line.record)
        head, rest = split_record(line.record)
        bucket = self._layout.bucket_of_digest(line.digest)
        yield "HSET", bucket, line.digest, head, *((line.digest + b"+", rest) if rest else ())
        self._objects[self._layout.shard_of_digest(line.digest)] += base.on_both

    def _dirty(self, line: DirtyLine) -> Iterable[tuple[Any, ...]]:
        for side in line.since_us or {Side.BLOB: -1}:
            at = line.since_us.get(side)
            if at is not None and not 0 <= at < MOST:
                raise ValueError("a time that is none")
            stamp = Stamp(min(at, _MOST_EXACT), 1_000_000, StampOrigin.SCAN) if at is not None else None
            self._changes.append(Change(line.key, side, Source.OPERATOR, at=stamp))
        return ()

    def _named(self, kind: str, line: Named) -> Iterable[tuple[Any, ...]]:
        layout = self._layout
        if kind == "cursor":
            _exact(msgspec.json.decode(line.value, type=Cursor))
            yield "HSET", layout.of_pair("marks"), line.name, msgspec.json.encode(Counted("", {}))
            yield "SET", layout.of_pair(f"cursor:{line.name}"), line.value
        elif kind == "note":
            _check_note(line)
            yield "HSET", layout.of_pair("notes"), line.name, line.value
        elif kind == "intent":
            _base_of(line.value)
            yield "HSET", layout.of_shard(layout.shard_of(line.name), "intent"), line.name, line.value
        else:
            raise ValueError(f"a line of kind {kind!r}")


def _buried(layout: Layout, letter: DeadLetter, packed: bytes) -> tuple[Any, ...]:
    """The command that keeps a dead letter as ``State.bury`` does: within the bounds, and counted."""
    keys = [layout.of_pair("dead"), layout.of_pair("dead:tally")]
    bounds = [DEAD_LETTERS, DEAD_LETTER_BYTES]
    return "EVAL", script("bury").text, len(keys), *keys, packed, letter.source, letter.at_us, *bounds


def _base_of(record: bytes) -> Base:
    base = unpack_base(record)
    if max(base.size_bytes, base.written.at_us, base.vast_as_of_us) >= MOST:
        raise ValueError("a number beyond what is exact")
    return base


def _exact(record: _Record) -> _Record:
    """*record*. Raises ValueError for one that is whole and holds a number of which whoever reads it later makes nothing."""
    _check_numbers(msgspec.to_builtins(record))
    return record


def _check_numbers(value: object) -> None:
    if isinstance(value, int) and abs(value) >= MOST:
        raise ValueError("a number beyond what is exact")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        _check_numbers(one)


def _check_note(line: Named) -> None:
    """Raises ValueError for one that ends whoever reads it; notes are of many forms, and those of JSON tell that they are."""
    if line.name == OPTIONS_NOTE:
        msgspec.json.decode(line.value, type=dict[str, str])
    elif line.name == GAP_NOTE:
        int(line.value)
    elif line.value[:1] in {b"{", b"["}:
        _check_numbers(msgspec.json.decode(line.value))


def check_header(value: bytes) -> Header:
    """The first line. Raises UsageError for a file of another version of the program."""
    header = msgspec.json.decode(value, type=Header)
    if header.format != FORMAT or header.schema != SCHEMA:
        raise UsageError(
            f"format {header.format}, schema {header.schema}; this one reads {FORMAT} and {SCHEMA}: use the one that wrote it",
            reason="bad_export",
        )
    return header
