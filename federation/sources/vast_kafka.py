"""VAST's S3 events over the Kafka protocol: assigned partitions, offsets in our own state (facts/vast.md 2).

kafka-python blocks, so it lives in one thread of its own; each batch crosses to the event loop, is marked, and only then the
cursor moves (rule 6).
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from federation.backoff import backoff_seconds
from federation.errors import RetryLater
from federation.model import Change
from federation.payloads import Malformed
from federation.payloads.vast import Ambiguous, VastScope, parse
from federation.ports import ChangeSink, Clock, State
from federation.progress import Cursor, DeadLetter
from federation.sources.common import Tell
from federation.sources.key_spelling import KeySpelling

_POLL_MS = 500
_IDLE_SECONDS = 0.05
"""Pause after an empty poll: a broker may ignore the wait we ask for (facts/vast.md 2)."""
_AT_ONCE = 500
_PARTITIONS_EVERY_SECONDS = 30.0
_CURSOR_EVERY_SECONDS = 10.0
_SILENCE_SECONDS = 3.0
"""After so long without a record the broker is asked whether it is there: a poll tells silence and absence alike."""
_PROBE_MS = 3_000
_ANSWER_SECONDS = 12.0
"""After so long without an answer of the client the broker is taken to be away: the client may wait for ever, and silently."""

Batch = dict[int, list[Any]]


class VastKafka:
    """``ports.Source``. A record that cannot be parsed is kept in *state* before the cursor passes it."""

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
        on_gap: Callable[[], None],
    ) -> None:
        self._options = options
        self._topic = topic
        self._scope = scope
        self._state = state
        self._sink = sink
        self._clock = clock
        self._on_gap = on_gap
        self._tell = Tell(self.name)
        self._spelling = KeySpelling(state)
        self._digest = hashlib.blake2b(f"{topic}\0{scope.bucket}".encode(), digest_size=8).hexdigest()

    def health(self) -> dict[str, str | int | float | None]:
        """As in the port."""
        return self._tell.as_dict()

    async def run(self) -> None:
        """As in the port."""
        failures = 0
        while True:
            try:
                await self._session()
            except (KafkaError, OSError, RetryLater) as error:
                self._tell.down(f"{type(error).__name__}: {error}")
                if isinstance(error, OffsetOutOfRangeError):
                    self._gap()
                await self._clock.sleep(min(30.0, backoff_seconds(failures, first_seconds=0.5)))
                failures = 0 if self._tell.connected else failures + 1

    def _gap(self) -> None:
        self._tell.counts["gaps"] += 1
        self._on_gap()

    async def _session(self) -> None:
        """One connection: read from the cursor until something fails."""
        cursor = await self._state.cursor(self.name)
        if cursor is not None and cursor.options_digest != self._digest:
            self._tell.counts["cursor_of_other_options"] += 1
            self._gap()
            cursor = await self._reset(cursor)
        reader = _Reader(self._options, self._topic, dict(cursor.position) if cursor is not None else {})
        async with reader:
            looked = self._clock.monotonic_seconds()
            while True:
                batch = await reader.poll()
                if not batch and self._clock.monotonic_seconds() - looked > _CURSOR_EVERY_SECONDS:
                    looked = self._clock.monotonic_seconds()
                    await self._require_cursor(cursor)
                if reader.gaps:
                    reader.gaps = 0
                    self._gap()
                self._tell.up()
                self._tell.behind = sum(map(len, batch.values())) >= _AT_ONCE
                if batch:
                    cursor = await self._take(batch, cursor)

    async def _require_cursor(self, cursor: Cursor | None) -> None:
        """While nothing comes nobody moves the cursor: if it is not where we left it, the state went back and lost marks."""
        if await self._state.cursor(self.name) == cursor:
            return
        self._gap()
        raise RetryLater("the state went back; reading again from its position", reason="cursor_moved")

    async def _reset(self, cursor: Cursor) -> Cursor:
        fresh = Cursor({}, self._digest, self._clock.now_us())
        await self._state.move_cursor(self.name, cursor, fresh)
        return fresh

    async def _take(self, batch: Batch, cursor: Cursor | None) -> Cursor:
        changes: list[Change] = []
        ambiguous: list[Ambiguous] = []
        position = dict(cursor.position) if cursor is not None else {}
        for partition, records in batch.items():
            for record in records:
                changes += await self._read(record, ambiguous)
            position[str(partition)] = records[-1].offset + 1
        changes += await self._spelling.pick(ambiguous)
        if changes:
            self._tell.marked(await self._sink.mark(changes))
        moved = Cursor(position, self._digest, self._clock.now_us())
        if not await self._state.move_cursor(self.name, cursor, moved):
            raise RetryLater("another process reads these events too; starting over from its position", reason="cursor_moved")
        self._tell.position = position
        return moved

    async def _read(self, record: Any, ambiguous: list[Ambiguous]) -> list[Change]:  # noqa: ANN401 - kafka-python's record
        self._tell.counts["received"] += 1
        try:
            parsed = parse(record.value or b"", self._scope)
        except Malformed as fault:
            self._tell.dead(str(fault))
            await self._state.bury(DeadLetter(self.name, str(fault), record.value or b"", self._clock.now_us()))
            return []
        self._tell.parsed(parsed)
        if parsed.needs_scan:
            self._on_gap()
        ambiguous += parsed.ambiguous
        return parsed.changes


class _Reader:
    """The consumer in its own thread. ``poll`` hands over one batch at a time, so nothing is read ahead of the cursor."""

    def __init__(self, options: dict[str, Any], topic: str, position: dict[str, int]) -> None:
        self._options = options
        self._topic = topic
        self._position = position
        self._loop = asyncio.get_running_loop()
        self._wanted = threading.Semaphore(0)
        self._stopping = threading.Event()
        self._answers: asyncio.Queue[Batch | Exception] = asyncio.Queue()
        self._thread = threading.Thread(target=self._work, name="vast-kafka", daemon=True)
        self._consumer: KafkaConsumer | None = None
        self.gaps = 0

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        self._wanted.release()
        await asyncio.to_thread(self._thread.join, 1.0)
        if self._thread.is_alive() and self._consumer is not None:
            # It waits for a broker that does not answer; closing makes that wait fail.
            await asyncio.to_thread(self._consumer.close, autocommit=False)
            await asyncio.to_thread(self._thread.join, 1.0)

    async def poll(self) -> Batch:
        """The next records by partition; empty when there are none. Raises what the consumer raised."""
        self._wanted.release()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer = await self._answers.get()
        except TimeoutError:
            servers = ", ".join(self._options["bootstrap_servers"])
            raise KafkaError(f"no broker at {servers} answered within {_ANSWER_SECONDS:.0f} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    # ------------------------------------------------------------------------------------------------- in the thread

    def _work(self) -> None:
        try:
            consumer = self._consumer = KafkaConsumer(**self._options)
            assigned: set[int] = set()
            looked, heard = float("-inf"), time.monotonic()
            while not self._stopping.is_set():
                self._wanted.acquire()
                if self._stopping.is_set():
                    break
                if time.monotonic() - looked > _PARTITIONS_EVERY_SECONDS:
                    looked = time.monotonic()
                    assigned = self._assign(consumer, assigned)
                batch = self._poll(consumer)
                if batch:
                    heard = time.monotonic()
                elif time.monotonic() - heard > _SILENCE_SECONDS:
                    consumer.end_offsets(consumer.assignment(), timeout_ms=_PROBE_MS)
                    heard = time.monotonic()
                self._answer(batch)
        except Exception as error:  # noqa: BLE001 - handed to the loop, which decides
            self._answer(error)
        finally:
            if self._consumer is not None:
                self._consumer.close(autocommit=False)

    def _poll(self, consumer: KafkaConsumer) -> Batch:
        try:
            records = consumer.poll(timeout_ms=_POLL_MS, max_records=_AT_ONCE)
        except OffsetOutOfRangeError as error:
            # Retention overtook us: go on from what is there; what is lost is for a scan to find.
            for partition in error.args[0] if error.args and isinstance(error.args[0], dict) else consumer.assignment():
                consumer.seek_to_beginning(partition)
            self.gaps += 1
            return {}
        if not records:
            time.sleep(_IDLE_SECONDS)
        return {partition.partition: batch for partition, batch in records.items()}

    def _assign(self, consumer: KafkaConsumer, assigned: set[int]) -> set[int]:
        """All partitions of the topic, each from the cursor, or from the earliest record when the cursor does not know it."""
        partitions = consumer.partitions_for_topic(self._topic)
        if not partitions:
            raise KafkaError(f"the topic {self._topic!r} is not there")
        if partitions == assigned:
            return assigned
        at = {p: consumer.position(TopicPartition(self._topic, p)) for p in assigned}
        topic_partitions = [TopicPartition(self._topic, p) for p in sorted(partitions)]
        consumer.assign(topic_partitions)
        for one in topic_partitions:
            known = at.get(one.partition, self._position.get(str(one.partition)))
            if known is None:
                consumer.seek_to_beginning(one)
            else:
                consumer.seek(one, known)
        return set(partitions)

    def _answer(self, answer: Batch | Exception) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._answers.put_nowait, answer)
