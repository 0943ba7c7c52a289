"""Positions told to the broker too, for tools outside that watch a consumer group's lag. Best effort: we never read them back.

A client of its own, because kafka-python's consumer waits for the group's coordinator before every poll when it has a group;
offsets are committed as by a group without members, so nobody joins anything.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

EVERY_SECONDS = 5.0
AFTER_FAILURE_SECONDS = 60.0
_FIRST_FAILURE_SECONDS = 2.0
"""The coordinator of a group that is new is not there at once."""


class OffsetCommits:
    """Commits the newest positions now and then, in a thread of its own that starts with the first."""

    def __init__(self, options: Mapping[str, Any], group_id: str, topic: str, *, every_seconds: float = EVERY_SECONDS) -> None:
        known = {name: value for name, value in options.items() if name in KafkaAdminClient.DEFAULT_CONFIG}
        self._options = known | {"client_id": f"{options.get('client_id', 'fedplane')}-offsets", "request_timeout_ms": 10_000}
        self._group_id = group_id
        self._topic = topic
        self._every_seconds = every_seconds
        self._waiting: dict[int, int] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.last_error = ""

    def tell(self, positions: Mapping[int, int]) -> None:
        """Positions by partition, to be committed before long; without a group, never. Returns at once."""
        if not self._group_id or not positions:
            return
        with self._lock:
            self._waiting |= positions
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="vast-kafka-offsets", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """No more commits; the thread ends by itself. Idempotent."""
        self._closing.set()

    # ------------------------------------------------------------------------------------------------- in the thread

    def _work(self) -> None:
        pause = self._every_seconds
        while not self._closing.wait(pause):
            try:
                self._commit_all()
            except Exception as error:  # noqa: BLE001 - whatever it is, positions are ours and reading goes on
                pause = AFTER_FAILURE_SECONDS if self.last_error else _FIRST_FAILURE_SECONDS
                self.last_error = f"{type(error).__name__}: {error}"[:200]

    def _commit_all(self) -> None:
        """With one connection as long as it works."""
        admin = KafkaAdminClient(**self._options)
        try:
            while True:
                with self._lock:
                    positions, self._waiting = self._waiting, {}
                if positions:
                    self._commit(admin, positions)
                    self.last_error = ""
                if self._closing.wait(self._every_seconds):
                    return
        finally:
            admin.close()

    def _commit(self, admin: KafkaAdminClient, positions: dict[int, int]) -> None:
        offsets = {TopicPartition(self._topic, one): OffsetAndMetadata(at, "", -1) for one, at in positions.items()}
        try:
            answers = admin.alter_group_offsets(self._group_id, offsets)
            for error in answers.values():
                if getattr(error, "errno", 0):
                    raise error()
        except KafkaError:
            with self._lock:
                self._waiting = positions | self._waiting
            raise
