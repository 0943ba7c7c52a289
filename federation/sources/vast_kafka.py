"""VAST's S3 events over the Kafka protocol: assigned partitions, offsets in our own state (facts/vast.md 2).

kafka-python blocks, so it lives in a thread of its own (``kafka_reader``); each batch crosses to the event loop, is marked, and
only then the cursors of its partitions move (rule 6). While marks cannot be made nothing is read: the connection is closed.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kafka.errors import KafkaError

from federation.backoff import backoff_seconds
from federation.errors import RetryLater
from federation.model import Change
from federation.payloads import Malformed
from federation.payloads.vast import Ambiguous, CanaryEvent, VastScope, parse
from federation.ports import ChangeSink, Clock, State
from federation.progress import Cursor, DeadLetter
from federation.sources import canary
from federation.sources.common import OnGap, Tell
from federation.sources.kafka_broker import BrokerFault, BrokerRefuses
from federation.sources.kafka_commits import OffsetCommits
from federation.sources.kafka_reader import Polled, Reader
from federation.sources.key_spelling import KeySpelling
from federation.sources.partitions import EVERY_SECONDS, Shares

_CURSOR_EVERY_SECONDS = 10.0
_REFUSED_SECONDS = 60.0
"""Between tries with credentials that were refused, which may lock an account."""


@dataclass(slots=True)
class _Place:
    """Where one partition is read. ``cursor``: as in the state, for compare-and-set; ``offset``: None: its earliest record."""

    cursor: Cursor | None
    offset: int | None
    read_us: int | None = None
    """Time of the record read last from where this session began or the cursor was put; None: none with a time was."""


@dataclass(slots=True)
class _Taken:
    """What a batch said, before anything of it is recorded."""

    changes: list[Change] = field(default_factory=list)
    ambiguous: list[Ambiguous] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    canary: CanaryEvent | None = None
    read_us: dict[int, int] = field(default_factory=dict)
    """By partition: time of its last record that has one."""
    missed: bool = False
    """Something changed that no record names."""


class VastKafka:
    """``ports.Source``. A record that cannot be parsed is kept in *state* before the cursor passes it.

    Several processes share a topic: each reads the partitions it holds (``partitions.Shares``). *group_id*: consumer group under
    which positions are told to the broker too, for tools that watch lag; empty: none.
    """

    name = "vast_events"

    def __init__(
        self,
        options: dict[str, Any],
        topic: str,
        scope: VastScope,
        state: State,
        sink: ChangeSink,
        clock: Clock,
        *,
        on_gap: OnGap,
        owner: str = "",
        group_id: str = "",
    ) -> None:
        self._options = options
        self._topic = topic
        self._scope = scope
        self._state = state
        self._sink = sink
        self._clock = clock
        self._on_gap = on_gap
        self._owed = False
        self._tell = Tell(self.name)
        self._spelling = KeySpelling()
        self._shares = Shares(state, self.name, owner)
        self._commits = OffsetCommits(options, group_id, topic)
        self._digest = hashlib.blake2b(f"{topic}\0{scope.bucket}".encode(), digest_size=8).hexdigest()
        self._topic_id = ""
        self._held: dict[int, _Place] = {}
        self._partitions = 0
        self._lag = 0

    def health(self) -> dict[str, str | int | float | None]:
        """As in the port. ``partitions`` of the topic, ``held`` by this process, ``lag_records`` not yet read of these."""
        told: dict[str, str | int | float | None] = {
            "partitions": self._partitions,
            "held": len(self._held) if self._tell.connected else 0,
            "lag_records": self._lag,
        }
        if self._commits.last_error:
            told["broker_commits"] = self._commits.last_error
        return self._tell.as_dict() | told

    async def run(self) -> None:
        """As in the port."""
        failures = 0
        try:
            while True:
                pause = _REFUSED_SECONDS
                try:
                    await self._session()
                except BrokerRefuses as error:
                    self._tell.down(error)
                except (KafkaError, OSError, RetryLater) as error:
                    failures = 0 if self._tell.connected else failures + 1
                    self._tell.down(error if isinstance(error, BrokerFault) else f"{type(error).__name__}: {error}")
                    pause = min(30.0, backoff_seconds(failures, first_seconds=0.5))
                await self._clock.sleep(pause)
        finally:
            self._commits.close()
            with suppress(RetryLater):  # then the leases end by themselves
                await self._shares.leave()

    async def _gap(self) -> None:
        self._owed = True  # until it was asked for, also by the next session
        await self._on_gap()
        self._owed = False
        self._tell.counts["gaps"] += 1

    async def _session(self) -> None:
        """One connection: read from the cursors until something fails."""
        self._held = {}
        await self._shares.check()  # while the state is away, the broker is left alone
        if self._owed:
            await self._gap()
        async with Reader(self._options, self._topic) as reader:
            shared = looked = float("-inf")
            while True:
                now = self._clock.monotonic_seconds()
                if now - shared >= EVERY_SECONDS:
                    shared = now
                    await self._share(reader)
                polled = await reader.poll() if self._held else Polled()
                self._tell.up()
                for partition, offset in polled.restarted.items():
                    await self._gap()
                    await self._move({partition: offset})
                if polled.records:
                    await self._take(polled.records)
                elif not self._held:
                    await self._clock.sleep(EVERY_SECONDS)
                elif self._clock.monotonic_seconds() - looked > _CURSOR_EVERY_SECONDS:
                    looked = self._clock.monotonic_seconds()
                    await self._require_cursors()
                if polled.records or polled.restarted or self._tell.waiting:
                    await self._look(reader)

    async def _look(self, reader: Reader) -> None:
        """Note what waits: a partition counts as read to its end only once the broker told where that is.

        By offsets, which without transactions (facts/vast.md 2) leave out no record of ours.
        """
        ends = await reader.ends() if self._held else {}
        left = {one: ends[one] - (place.offset or 0) for one, place in self._held.items() if one in ends}
        self._lag = sum(max(0, records) for records in left.values())
        self._tell.waiting = {str(one): place.read_us for one, place in self._held.items() if left.get(one, 1) > 0}

    # ---------------------------------------------------------------------------------------------------------- partitions

    async def _share(self, reader: Reader) -> None:
        """Take up and give back partitions, of those there are now; look at what others learned."""
        partitions, topic_id = await reader.topic()
        if self._held and topic_id != self._topic_id:
            raise RetryLater("the topic was made anew; beginning with its first record", reason="topic_replaced")
        self._topic_id, self._partitions = topic_id, len(partitions)
        mine = await self._shares.claim(partitions)
        if mine != self._held.keys():
            held = {one: self._held[one] if one in self._held else await self._place(one) for one in sorted(mine)}
            at = await reader.assign({one: place.offset for one, place in held.items()})
            self._held = held
            self._tell.position = {str(one): offset for one, offset in at.items()}
            # Kept now, so that retention is noticed to overtake us even where nothing was ever read.
            await self._move({one: offset for one, offset in at.items() if offset != held[one].offset})
            self._commits.tell(at)  # whoever had them before may not have come to it
        await self._look(reader)
        seen = await canary.back(self._state)
        if seen is not None:
            await self._learn(seen.spellings)

    async def _learn(self, spellings: tuple[str, ...] | frozenset[str]) -> None:
        if self._spelling.learn(spellings):
            self._tell.counts["key_spelling_changed"] += 1
            await self._gap()

    def _cursor_name(self, partition: int) -> str:
        return f"{self.name}/{partition}"

    async def _place(self, partition: int) -> _Place:
        """Where the partition was left; its beginning when nobody knows, or when what is known is of another topic."""
        cursor = await self._state.cursor(self._cursor_name(partition))
        # Before there was a cursor for each partition, one held them all.
        known = cursor or await self._state.cursor(self.name)
        if known is None:
            return _Place(None, None)
        digest, _, topic_id = known.options_digest.partition(":")
        if digest != self._digest or (topic_id and self._topic_id and topic_id != self._topic_id):
            self._tell.counts["cursor_of_other_options"] += 1
            await self._gap()
            return _Place(cursor, None)
        return _Place(cursor, known.position.get(str(partition)))

    async def _require_cursors(self) -> None:
        """While nothing comes nobody moves the cursors: if one is not where we left it, the state went back and lost marks."""
        for partition, place in self._held.items():
            if await self._state.cursor(self._cursor_name(partition)) != place.cursor:
                await self._gap()
                raise RetryLater("the state went back; reading again from its position", reason="cursor_moved")

    async def _move(self, positions: Mapping[int, int]) -> None:
        """Record that each partition is read up to its offset, all at a time. Raises RetryLater: another process moved one."""
        moving = [self._move_one(partition, offset) for partition, offset in positions.items()]
        for moved in await asyncio.gather(*moving, return_exceptions=True):
            if isinstance(moved, BaseException):
                raise moved
        self._commits.tell(positions)

    async def _move_one(self, partition: int, offset: int) -> None:
        digest = f"{self._digest}:{self._topic_id}" if self._topic_id else self._digest
        place = self._held[partition]
        moved = Cursor({str(partition): offset}, digest, self._clock.now_us())
        if not await self._state.move_cursor(self._cursor_name(partition), place.cursor, moved):
            raise RetryLater("another process reads these events too; starting over from its position", reason="cursor_moved")
        self._held[partition] = _Place(moved, offset)
        self._tell.position[str(partition)] = offset

    # ------------------------------------------------------------------------------------------------------------- records

    async def _take(self, records: dict[int, list[Any]]) -> None:
        """Mark what a batch says, keep what cannot be read, and only then move the cursors (rule 6)."""
        taken = _Taken()
        for batch in records.values():
            for record in batch:
                self._read(record, taken)
        if taken.missed:
            await self._on_gap()
        changes = taken.changes + self._spelling.pick(taken.ambiguous)
        if changes:
            self._tell.marked(await self._sink.mark(changes))
        for letter in taken.letters:  # after the marks, so that a batch that is read again buries them once
            await self._state.bury(letter)
            self._tell.dead(letter.reason)
        if taken.canary is not None:
            await canary.note_back(self._state, taken.canary, self._clock.now_us())
            self._tell.counts["canaries"] += 1
            await self._learn(taken.canary.spellings)
        read_us = {one: self._held[one].read_us for one in records} | taken.read_us
        await self._move({partition: batch[-1].offset + 1 for partition, batch in records.items()})
        for partition, at_us in read_us.items():
            self._held[partition].read_us = at_us

    def _read(self, record: Any, taken: _Taken) -> None:  # noqa: ANN401 - kafka-python's record
        self._tell.counts["received"] += 1
        raw = record.value or b""
        try:
            parsed = parse(raw, self._scope, record.headers)
        except Malformed as fault:
            where = {"topic": self._topic, "partition": record.partition, "offset": record.offset}
            taken.letters.append(DeadLetter(self.name, str(fault), raw, self._clock.now_us(), **where))
            return
        self._tell.parsed(parsed)
        if parsed.newest_us:
            taken.read_us[record.partition] = parsed.newest_us
        taken.missed = taken.missed or parsed.needs_scan
        taken.changes += parsed.changes
        taken.ambiguous += parsed.ambiguous
        taken.canary = parsed.canary or taken.canary
