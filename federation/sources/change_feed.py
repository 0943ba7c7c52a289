"""The Blob change feed as a source: marks what it tells of, then moves its cursor (rule 6).

One process of a pair reads at a time (``State.own``); the cursor is compare-and-set all the same, so two could at worst mark the
same records twice. Killed between a mark and the move of the cursor, the records of that one batch are marked again: marks of one
version coalesce or are dropped as echoes, so that is repeated work and no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

import msgspec

from federation.backoff import backoff_seconds
from federation.errors import FederationError, Halt, RetryLater
from federation.model import Change
from federation.payloads import Parsed
from federation.payloads.change_feed import Record, parse
from federation.payloads.event_grid import BlobScope
from federation.ports import ChangeSink, Clock, State
from federation.progress import Cursor, DeadLetter
from federation.sources.change_feed_chunk import Damage, Piece, ReadLimits, Records
from federation.sources.change_feed_index import FeedBlobs
from federation.sources.change_feed_layout import SLACK_US
from federation.sources.change_feed_patience import PatientBlobs
from federation.sources.change_feed_position import FeedPosition, load, start_at
from federation.sources.change_feed_reader import FeedReader, Folded, Item, Lost
from federation.sources.common import OnGap, Tell, ask_scans
from federation.telemetry import logger

NAME = "change_feed"
_BATCH_RECORDS = 2_000
"""Marked in one step; so many records, and the rest of a piece, may be marked again after a kill."""
_MAX_PAUSE_SECONDS = 30.0
_log = logger("fedplane.sources")


@dataclass(frozen=True, slots=True)
class FeedOptions:
    """How the feed is read. ``start``: "now", "start" or microseconds since 1970 UTC, where no cursor is kept."""

    start: str | int = "now"
    poll_seconds: float = 15.0
    lease_seconds: float = 15.0
    """How long after a reader's death another one waits."""


Made = tuple[Parsed, list[tuple[str, Record]]]


class ChangeFeed:
    """``ports.Source``. What cannot be read is kept in *state* with its reason before the cursor passes it."""

    name = NAME

    def __init__(
        self,
        blobs: FeedBlobs,
        account: str,
        scope: BlobScope,
        state: State,
        sink: ChangeSink,
        clock: Clock,
        *,
        owner: str,
        on_gap: OnGap,
        options: FeedOptions | None = None,
        limits: ReadLimits | None = None,
    ) -> None:
        self._blobs = PatientBlobs(blobs, clock, self._refused)
        self._digest = options_digest(account, scope)
        self._scope = scope
        self._state = state
        self._sink = sink
        self._clock = clock
        self._owner = owner
        self._on_gap = on_gap
        self._options = options or FeedOptions()
        self._limits = limits
        self._tell = Tell(self.name)
        self._position: FeedPosition | None = None
        self._lag: dict[str, int | None] = {}
        self._unread_since_us: int | None = None
        self._owned_until = float("-inf")

    def health(self) -> dict[str, str | int | float | None]:
        """As in the port, and the lag in its three forms (facts/azure.md 2.3); what is not known is None.

        ``newest_us``: time of the newest record marked. ``index_modified_us``: when the service last wrote its index.
        ``unread_bytes`` and ``unread_since_us``: what was found and is not marked yet (at least), and since when there is any.
        ``as_of_us``: every change of before this that the service has published was marked, from ``from_us`` on: since then
        nothing was missing that only a scan can find.
        """
        told = self._tell.as_dict() | self._lag
        if self._position is not None:
            told |= {"newest_us": self._position.newest_us or None, "as_of_us": self._position.as_of_us or None}
            told["from_us"] = max(self._position.from_us, self._position.gap_us) or None
        return told | {"unread_since_us": self._unread_since_us}

    async def run(self) -> None:
        """As in the port."""
        failures = 0
        try:
            while True:
                try:
                    await self._session()
                except FederationError as error:
                    failures = 0 if self._tell.connected else failures + 1
                    self._tell.down(_text(error))
                    await self._clock.sleep(min(_MAX_PAUSE_SECONDS, backoff_seconds(failures, first_seconds=0.5)))
        finally:
            with suppress(RetryLater):  # then it ends by itself
                await self._state.disown(self.name, owner=self._owner)
            await self._blobs.close()

    def _refused(self, error: RetryLater) -> None:
        self._tell.counts["repeated_requests"] += 1
        if not self._tell.connected:
            self._tell.down(_text(error))

    # ------------------------------------------------------------------------------------------------------------ session

    async def _session(self) -> None:
        """Read from the cursor until something fails."""
        await self._owned()
        cursor, self._position = await self._begin()
        reader = FeedReader(self._blobs, self._make(self._position.from_us), self._limits)
        try:
            while True:
                cursor = await self._pass(reader, cursor)
                self._tell.up()
                await self._pause()
                await self._require(cursor)
        finally:
            reader.close()

    async def _begin(self) -> tuple[Cursor | None, FeedPosition]:
        cursor = await self._state.cursor(self.name)
        if cursor is not None and cursor.options_digest == self._digest:
            with suppress(ValueError):
                return cursor, load(cursor.position)
        if cursor is not None:
            # Of another account or container, or of a form we do not know: what lies between is for a scan to find.
            await self._gap("the cursor was of other settings")
        start = self._options.start
        # "now" is by our clock, the records' times are by the service's.
        first = start_at(self._clock.now_us() - SLACK_US if start == "now" else 0 if start == "start" else int(start))
        return await self._move(cursor, first), first

    def _make(self, from_us: int) -> Callable[[Records], Made]:
        """Runs in the reader's thread."""
        return lambda records: parse(records, self._scope, from_us=from_us)

    async def _pass(self, reader: FeedReader[Made], cursor: Cursor | None) -> Cursor | None:
        """Everything there is now, in batches: mark, then move the cursor."""
        assert self._position is not None  # noqa: S101 - set by _begin
        damaged = False
        async with aclosing(reader.sweep(self._position)) as items:
            async for batch in _batches(items):
                await self._owned()
                damaged = damaged or any(isinstance(item, Damage | Lost) for item in batch)
                cursor = await self._take(batch, cursor)
                self._note(reader)
        self._note(reader)
        whole = not reader.progress.unread_bytes and not damaged
        if whole and reader.progress.as_of_us > self._position.as_of_us:
            cursor = await self._move(cursor, replace(self._position, as_of_us=reader.progress.as_of_us))
        return cursor

    async def _take(self, batch: list[Item[Made]], cursor: Cursor | None) -> Cursor | None:
        position = self._position
        assert position is not None  # noqa: S101 - set by _begin
        found_us = self._clock.now_us()  # before the scan is asked for: that one must have begun later
        changes: list[Change] = []
        for item in batch:
            match item:
                case Piece():
                    parsed, unreadable = item.payload
                    await self._count(item, parsed, unreadable)
                    changes += parsed.changes
                    position = position.read({item.chunk: item.position}, parsed.newest_us)
                    if parsed.scan_prefixes:  # what a record did not say only a scan can find, later than it happened
                        position = replace(position, gap_us=found_us)
                case Damage():
                    await self._bury(f"{item.chunk} at {item.offset}: {item.reason}", item.raw)
                    await self._gap(f"{item.chunk}: {item.reason}")
                    position = replace(position.read({item.chunk: item.position}), gap_us=found_us)
                case Lost():
                    await self._gap(item.reason)
                    position = replace(position.without(item.chunks, unseen=item.unseen), gap_us=found_us)
                case Folded():
                    position = position.folded(item.begin_us)
        if changes:
            self._tell.marked(await self._sink.mark(changes))
        return await self._move(cursor, position)

    async def _count(self, piece: Piece[Made], parsed: Parsed, unreadable: list[tuple[str, Record]]) -> None:
        self._tell.counts["received"] += piece.records + piece.duplicates
        self._tell.counts["duplicates"] += piece.duplicates
        self._tell.parsed(parsed)
        for reason, record in unreadable:
            await self._bury(reason, msgspec.json.encode(record, enc_hook=str))
        await ask_scans(parsed, self._on_gap)

    async def _bury(self, reason: str, raw: bytes) -> None:
        self._tell.dead(reason)
        await self._state.bury(DeadLetter(self.name, reason, raw, self._clock.now_us()))

    async def _gap(self, reason: str) -> None:
        self._tell.counts["gaps"] += 1
        _log.warning("the change feed has a gap; a scan is asked for", reason=reason)
        await self._on_gap()

    # -------------------------------------------------------------------------------------------------------------- state

    async def _move(self, cursor: Cursor | None, position: FeedPosition) -> Cursor:
        if cursor is not None and position == self._position and cursor.options_digest == self._digest:
            return cursor
        moved = Cursor(position.dump(), self._digest, self._clock.now_us())
        if not await self._state.move_cursor(self.name, cursor, moved):
            raise RetryLater("the feed's cursor was moved by somebody else; reading on from there", reason="cursor_moved")
        self._position = position
        return moved

    async def _require(self, cursor: Cursor | None) -> None:
        """Nobody else moves the cursor: if it is not where we left it, it was set back, or the state went back and lost marks."""
        found = await self._state.cursor(self.name)
        if found == cursor:
            return
        if found is None or found.position.get("rewound") is None:
            await self._gap("the state went back")
        raise RetryLater("the feed's cursor was moved; reading on from there", reason="cursor_moved")

    async def _owned(self) -> None:
        """Take the right to read, or keep it. Raises RetryLater while another process has it."""
        now = self._clock.monotonic_seconds()
        if now < self._owned_until - self._options.lease_seconds * 2 / 3:
            return
        if not await self._state.own(self.name, owner=self._owner, ttl_seconds=self._options.lease_seconds):
            self._owned_until = float("-inf")
            raise RetryLater("another process reads the change feed", reason="owned_elsewhere")
        self._owned_until = now + self._options.lease_seconds

    async def _pause(self) -> None:
        """Until the next look, keeping the right to read."""
        left = self._options.poll_seconds
        while left > 0:
            step = min(left, self._options.lease_seconds / 3)
            await self._clock.sleep(step)
            await self._owned()
            left -= step

    def _note(self, reader: FeedReader[Made]) -> None:
        seen = reader.progress
        self._tell.waiting = {"": None} if seen.unread_bytes or seen.segments_waiting else {}
        if not self._tell.behind:
            self._unread_since_us = None
        elif self._unread_since_us is None:
            self._unread_since_us = self._clock.now_us()
        self._lag = {
            "index_modified_us": seen.index_modified_us,
            "last_consumable_us": seen.last_consumable_us or None,
            "unread_bytes": seen.unread_bytes,
            "segments_waiting": seen.segments_waiting,
        }


def options_digest(account: str, scope: BlobScope) -> str:
    """Of what a cursor rests on: the feed that was read, and the container and prefix whose records were marked."""
    return hashlib.blake2b(f"{account}\0{scope.container}\0{scope.prefix}".encode(), digest_size=8).hexdigest()


async def _batches(items: AsyncIterator[Item[Made]]) -> AsyncIterator[list[Item[Made]]]:
    """Items in lists of about as many records as one mark takes well; those of before a fault too, so that each pass gets on."""
    batch: list[Item[Made]] = []
    held = 0
    fault: FederationError | None = None
    try:
        async for item in items:
            batch.append(item)
            held += item.records if isinstance(item, Piece) else 0
            if held >= _BATCH_RECORDS:
                yield batch
                batch, held = [], 0
    except FederationError as error:
        fault = error
    if batch:
        yield batch
    if fault is not None:
        raise fault


def _text(error: FederationError) -> str:
    if isinstance(error, Halt) and error.reason == "container_missing":
        return (
            "the account has no $blobchangefeed: turn the change feed on (it appears some minutes later), or set "
            "pair.blob.change_feed.enabled = false"
        )
    if isinstance(error, Halt) and error.reason == "credentials_refused":
        return (
            f"{error} Grant it reading $blobchangefeed (Storage Blob Data Reader on the account; a SAS must be of the account)."
        )
    return str(error)
