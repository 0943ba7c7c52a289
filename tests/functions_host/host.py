"""Plays the Functions host for several instances of the app: queues, timers, webhooks, and workers that are killed.

Queues follow the rules of the storage extension (facts/functions.md, host.json): batches, visibility while a message is at work
and after a failure, the dequeue count and the poison queue. A timer runs on one instance at a time, whichever; a run that
outlasts its period delays the next. What is left out: leases of the host itself, renewal of a message's visibility, scaling.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient

from tests.functions_host.instance import ROOT, Function, Instance, Outcome, WorkerGone
from tests.functions_host.schedule import next_seconds

_HIDDEN_SECONDS = 600
"""How long a message is hidden while it is at work."""
_FIRST_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class QueueRules:
    """``extensions.queues`` of host.json."""

    at_once: int
    refill_below: int
    visibility_seconds: int
    max_dequeue_count: int
    longest_pause_seconds: float

    @classmethod
    def of(cls, root: Path = ROOT) -> Self:
        """As the app's host.json says."""
        told = json.loads((root / "host.json").read_text())["extensions"]["queues"]
        return cls(
            told["batchSize"],
            told["newBatchThreshold"],
            _seconds(told["visibilityTimeout"]),
            told["maxDequeueCount"],
            _seconds(told["maxPollingInterval"]),
        )


def _seconds(text: str) -> int:
    hours, minutes, seconds = map(int, text.split(":"))
    return hours * 3600 + minutes * 60 + seconds


@dataclass
class Tally:
    """What happened so far, by function."""

    ended: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    gone: Counter[str] = field(default_factory=Counter)
    """Invocations whose worker was killed."""
    poisoned: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """Texts of exceptions."""


class Host:
    """``async with Host(...)``: the instances are started, and their triggers fire until the end of the block."""

    def __init__(
        self,
        environment: Mapping[str, str],
        home: Path,
        *,
        instances: int = 1,
        minute_seconds: float = 60.0,
        rules: QueueRules | None = None,
        without: frozenset[str] = frozenset(),
        seed: int = 1,
    ) -> None:
        """*without*: functions whose triggers do not fire. *environment*: the app settings."""
        self._environment = dict(environment)
        home.mkdir(parents=True, exist_ok=True)
        self._logs = [home / f"instance-{number}.jsonl" for number in range(instances)]
        self._minute = minute_seconds
        self._rules = rules or QueueRules.of()
        self._without = without
        self._random = random.Random(seed)
        self._tasks: list[asyncio.Task[None]] = []
        self._replacing = [asyncio.Lock() for _ in range(instances)]
        self._faults: list[BaseException] = []
        self.instances: list[Instance] = []
        self.tally = Tally()

    async def __aenter__(self) -> Self:
        self.instances = list(await asyncio.gather(*(self._new(number) for number in range(len(self._logs)))))
        for function in self.instances[0].functions.values():
            if function.name not in self._without:
                self._listen(function)
        return self

    async def _new(self, number: int) -> Instance:
        instance = await Instance(self._environment, self._logs[number]).start()
        if instance.refused:
            raise AssertionError(f"the app cannot be indexed: {instance.refused}")
        return instance

    async def __aexit__(self, *_: object) -> None:
        self.check()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(instance.kill() for instance in self.instances))

    def check(self) -> None:
        """Raise what ended a listener, or broke the handling of a message: a fault of this host's own."""
        for task in self._tasks:
            if task.done():
                task.result()
        for fault in self._faults:
            raise fault

    def _handled(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._faults.append(fault)

    def _listen(self, function: Function) -> None:
        match function.trigger["type"]:
            case "queueTrigger":
                self._tasks += [asyncio.create_task(self._queue(function, number)) for number in range(len(self.instances))]
            case "timerTrigger":
                self._tasks.append(asyncio.create_task(self._timer(function)))

    async def kill(self, number: int) -> None:
        """Kill the worker of one instance; its host notices and starts another."""
        async with self._replacing[number]:
            await self.instances[number].kill()
            self.instances[number] = await self._new(number)

    async def _worker(self, number: int) -> Instance:
        """Of an instance; while it is started anew, invocations wait."""
        async with self._replacing[number]:
            return self.instances[number]

    async def kill_any(self) -> None:
        """Kill one of them."""
        await self.kill(self._random.randrange(len(self.instances)))

    async def request(self, name: str, method: str = "GET", **told: Any) -> Outcome:
        """An HTTP request, at any instance."""
        instance = await self._worker(self._random.randrange(len(self.instances)))
        return await instance.request(name, method, **told)

    # -------------------------------------------------------------------------------------------------------------- timers

    async def _timer(self, function: Function) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(next_seconds(function.trigger["schedule"], loop.time(), self._minute))
            instance = await self._worker(self._random.randrange(len(self.instances)))
            try:
                outcome = await instance.timer(function.name)
            except WorkerGone:
                self.tally.gone[function.name] += 1
                continue
            self._count(function.name, outcome)

    def _count(self, name: str, outcome: Outcome) -> None:
        self.tally.ended[name] += 1
        if outcome.failed:
            self.tally.failed[name] += 1
            self.tally.faults[outcome.failed[:200]] += 1

    # -------------------------------------------------------------------------------------------------------------- queues

    def client(self, function: Function, suffix: str = "") -> QueueClient:
        """Of the queue that *function* listens to."""
        text = self._environment[function.trigger["connection"]]
        return QueueClient.from_connection_string(text, function.trigger["queueName"] + suffix)

    async def _queue(self, function: Function, number: int) -> None:
        """One instance's listener: refill when few are at work; an empty queue is looked at less and less often."""
        at_work: set[asyncio.Task[None]] = set()
        pause = _FIRST_PAUSE_SECONDS
        async with self.client(function) as queue, self.client(function, "-poison") as poison:
            try:
                while True:
                    messages = await self._receive(queue)
                    for message in messages:
                        task = asyncio.create_task(self._message(function, number, message, queue, poison))
                        at_work.add(task)
                        task.add_done_callback(at_work.discard)
                        task.add_done_callback(self._handled)
                    pause = _FIRST_PAUSE_SECONDS if messages else min(pause * 2, self._rules.longest_pause_seconds)
                    if not messages:
                        await asyncio.sleep(pause)
                    while len(at_work) > self._rules.refill_below:
                        await asyncio.wait(at_work, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in list(at_work):
                    task.cancel()
                await asyncio.gather(*at_work, return_exceptions=True)

    async def _receive(self, queue: QueueClient) -> list[QueueMessage]:
        try:
            many = self._rules.at_once
            pages = queue.receive_messages(messages_per_page=many, max_messages=many, visibility_timeout=_HIDDEN_SECONDS)
            return [message async for message in pages]
        except ResourceNotFoundError:
            return []

    async def _message(
        self, function: Function, number: int, message: QueueMessage, queue: QueueClient, poison: QueueClient
    ) -> None:
        count = message.dequeue_count or 1
        try:
            instance = await self._worker(number)
            outcome = await instance.message(function.name, str(message.content), dequeue_count=count)
        except WorkerGone:
            self.tally.gone[function.name] += 1
            outcome = None
        if outcome is not None:
            self._count(function.name, outcome)
        with contextlib.suppress(ResourceNotFoundError):  # somebody else had it meanwhile
            if outcome is not None and not outcome.failed:
                await queue.delete_message(message)
            elif count >= self._rules.max_dequeue_count:
                await self._poison(function, message, queue, poison)
            else:
                await queue.update_message(message, visibility_timeout=self._rules.visibility_seconds)

    async def _poison(self, function: Function, message: QueueMessage, queue: QueueClient, poison: QueueClient) -> None:
        with contextlib.suppress(ResourceExistsError):
            await poison.create_queue()
        await poison.send_message(message.content)
        await queue.delete_message(message)
        self.tally.poisoned[function.name] += 1
