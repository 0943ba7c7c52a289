"""kafka-python's consumer, which blocks, in one thread of its own: partitions assigned by us, one batch at a time.

Nothing is read ahead of what is asked for but the client's own fetch, which is bounded in bytes (``build.kafka_options``).
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from kafka import TopicPartition
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError

from federation.sources.kafka_broker import BrokerAway, BrokerFault, Connection, in_words

AT_ONCE = 1000
"""Records of one batch at most."""
_POLL_MS = 1
_IDLE_SECONDS = 0.05
"""Pause after an empty poll. A broker may ignore the wait we ask for (facts/vast.md 2), and a longer poll would then ask it
hundreds of times a second; one that waits answers a later poll."""
_SILENCE_SECONDS = 3.0
"""After so long without a record the broker is asked whether it is there: a poll tells silence and absence alike."""
_PROBE_MS = 3_000
_ANSWER_SECONDS = 12.0
"""After so long without an answer of the client the broker is taken to be away: the client may wait for ever, and silently."""

Step = Callable[[Connection], Any]


@dataclass(slots=True)
class Polled:
    """One batch by partition. ``restarted``: partitions whose position was not there any more, and where they go on."""

    records: dict[int, list[Any]] = field(default_factory=dict)
    restarted: dict[int, int] = field(default_factory=dict)


class Reader:
    """Use as a context manager. Every method raises KafkaError: BrokerRefuses where asking again soon is of no use."""

    def __init__(self, options: dict[str, Any], topic: str) -> None:
        self._options = options
        self._topic = topic
        self._loop = asyncio.get_running_loop()
        self._steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._thread = threading.Thread(target=self._work, name="vast-kafka", daemon=True)
        self._connection: Connection | None = None
        self._heard = time.monotonic()
        self._probed: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._steps.put(None)
        await asyncio.to_thread(self._thread.join, 1.0)
        if self._thread.is_alive() and self._connection is not None:
            # It waits for a broker that does not answer; closing makes that wait fail.
            await asyncio.to_thread(self._connection.close)
            await asyncio.to_thread(self._thread.join, 1.0)

    async def topic(self) -> tuple[frozenset[int], str]:
        """The partitions of the topic, and the topic's identity (empty where unknown). Raises BrokerAway when it is not there."""
        return await self._ask(self._look)  # type: ignore[no-any-return]

    async def assign(self, positions: Mapping[int, int | None]) -> dict[int, int]:
        """Read these partitions from here on, at these positions, or None: at their earliest record. Returns the positions."""
        return await self._ask(lambda connection: self._assign(connection, positions))  # type: ignore[no-any-return]

    async def poll(self) -> Polled:
        """The next records; empty, after a pause, when there are none."""
        return await self._ask(self._poll)  # type: ignore[no-any-return]

    async def ends(self) -> dict[int, int]:
        """The offset of the next record of each assigned partition; without those of which the broker told nothing yet."""
        return await self._ask(self._ends)  # type: ignore[no-any-return]

    async def _ask(self, step: Step) -> Any:  # noqa: ANN401 - what the step returns
        self._steps.put(step)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer = await self._answers.get()
        except TimeoutError:
            servers = ", ".join(self._options["bootstrap_servers"])
            raise BrokerAway(f"no broker at {servers} answered within {_ANSWER_SECONDS:.0f} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    # ------------------------------------------------------------------------------------------------- in the thread

    def _work(self) -> None:
        try:
            while (step := self._steps.get()) is not None:
                if self._connection is None:
                    self._connection = Connection(self._options)
                self._answer(step(self._connection))
        except BrokerFault as error:
            self._answer(error)
        except KafkaError as error:
            self._answer(in_words(error, self._options))
        except Exception as error:  # noqa: BLE001 - handed to the loop, which decides
            self._answer(error)
        finally:
            if self._connection is not None:
                self._connection.close()

    def _answer(self, answer: Any) -> None:  # noqa: ANN401 - as _ask
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._answers.put_nowait, answer)

    def _look(self, connection: Connection) -> tuple[frozenset[int], str]:
        partitions = connection.consumer.partitions_for_topic(self._topic)
        if not partitions:
            raise BrokerAway(f"the topic {self._topic!r} is not there: create it, with an event notification of the bucket to it")
        return frozenset(partitions), connection.topic_id(self._topic)

    def _places(self, partitions: Mapping[int, object]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, one) for one in sorted(partitions)]

    def _assign(self, connection: Connection, positions: Mapping[int, int | None]) -> dict[int, int]:
        connection.consumer.assign(self._places(positions))
        self._probed = {}
        fresh = {one: None for one, at in positions.items() if at is None}
        found = {one: at for one, at in positions.items() if at is not None} | self._earliest(connection, fresh)
        for place in self._places(found):
            connection.consumer.seek(place, found[place.partition])
        return found

    def _earliest(self, connection: Connection, partitions: Mapping[int, object]) -> dict[int, int]:
        if not partitions:
            return {}
        found = connection.consumer.beginning_offsets(self._places(partitions), timeout_ms=_PROBE_MS)
        return {place.partition: at for place, at in found.items()}

    def _poll(self, connection: Connection) -> Polled:
        consumer = connection.consumer
        try:
            records = consumer.poll(timeout_ms=_POLL_MS, max_records=AT_ONCE)
        except OffsetOutOfRangeError as error:
            told = error.args[0] if error.args and isinstance(error.args[0], dict) else dict.fromkeys(consumer.assignment())
            return Polled(restarted=self._restart(connection, dict.fromkeys(told)))
        except LogTruncationError as error:
            return Polled(restarted=self._restart(connection, error.divergent_offsets))
        if records:
            self._heard = time.monotonic()
        else:
            time.sleep(_IDLE_SECONDS)
            if time.monotonic() - self._heard > _SILENCE_SECONDS:
                self._probed = consumer.end_offsets(consumer.assignment(), timeout_ms=_PROBE_MS)
                self._heard = time.monotonic()
        return Polled({place.partition: batch for place, batch in records.items()})

    def _ends(self, connection: Connection) -> dict[int, int]:
        consumer = connection.consumer
        # As the answer to the last fetch said, else to the last probe; asking now would cost a request.
        found = {place: consumer.highwater(place) for place in consumer.assignment()}
        known = {place: end if end is not None else self._probed.get(place) for place, end in found.items()}
        return {place.partition: end for place, end in known.items() if end is not None}

    def _restart(self, connection: Connection, places: Mapping[TopicPartition, Any]) -> dict[int, int]:
        """Go on where the broker says that its log forked from ours, else from its earliest record.

        Retention overtook us, or the topic was cut or made anew: what is lost is for a scan to find.
        """
        found = {place.partition: fork.offset for place, fork in places.items() if fork is not None}
        found |= self._earliest(connection, {place.partition: None for place, fork in places.items() if fork is None})
        for place in self._places(found):
            connection.consumer.seek(place, found[place.partition])
        return found
