"""What the host gave up on: the sweep takes all of it back, and leaves what is for a person."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from azure.functions.timer import TimerRequest
from azure.storage.queue import QueueMessage

from federation.settings import PairSettings
from function_app import queues
from tests.unit.function_lab import App, blob_event, call, fresh_app


@dataclass
class Poison:
    """The poison queue of the first pair's events, by the rules of the server: 32 at a time, hidden for as long as was asked."""

    messages: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, int] = field(default_factory=dict)

    def put(self, text: str) -> None:
        """The host gives a message up."""
        self.messages[str(len(self.messages))] = text

    async def poisoned(self, _: PairSettings, *, hidden_seconds: int) -> list[QueueMessage]:
        """In place of that of ``Queues``."""
        found = [one for one in self.messages if one not in self.hidden][:32]
        self.hidden |= dict.fromkeys(found, hidden_seconds)
        return [QueueMessage(content=self.messages[one], id=one) for one in found]

    async def forget_poisoned(self, _: PairSettings, message: QueueMessage) -> None:
        """In place of that of ``Queues``."""
        del self.messages[str(message.id)]

    async def hide_poisoned(self, _: PairSettings, message: QueueMessage, *, hidden_seconds: int) -> None:
        """In place of that of ``Queues``."""
        self.hidden[str(message.id)] = hidden_seconds

    async def waiting(self, _: PairSettings) -> tuple[int, None]:
        """In place of that of ``Queues``: nothing waits in the queue itself."""
        return 0, None

    async def drop_poisoned(self, _: str) -> int:
        """In place of that of ``Queues``: no call was given up on."""
        return 0


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Empty."""
    made = Poison()
    for name in ("poisoned", "forget_poisoned", "hide_poisoned", "waiting", "drop_poisoned"):
        monkeypatch.setattr(queues.Queues, name, getattr(made, name))
    return made


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    """Two pairs on one account, halted so that marks stay."""
    async with fresh_app(tmp_path, monkeypatch) as made:
        yield made


def _event(name: str) -> str:
    return base64.b64encode(json.dumps(blob_event(name=name)).encode()).decode()


LETTER = json.dumps({"reason": "not JSON", "at_us": 1, "message_id": "m", "text": "?"})


async def test_all_of_it_is_taken_back_in_one_sweep(app: App, poison: Poison) -> None:
    """However many there are; a letter for a person stays, and is not looked at again for an hour."""
    poison.put(LETTER)
    for number in range(70):
        poison.put(_event(f"k{number}"))
    await call("sweep", TimerRequest())
    assert await app.dirty() == 70
    assert (poison.messages, poison.hidden["0"]) == ({"0": LETTER}, 3600)


async def test_what_could_not_be_taken_back_is_soon_seen_again(app: App, poison: Poison) -> None:
    """While marks cannot be made: within minutes, not an hour, which would be an hour of delay for each of them."""
    for number in range(40):
        poison.put(_event(f"k{number}"))
    await app.health()
    app.states["one"].away = True
    await call("sweep", TimerRequest())
    assert len(poison.messages) == 40
    assert set(poison.hidden.values()) == {120}
    app.states["one"].away = False
    poison.hidden.clear()
    await call("sweep", TimerRequest())
    assert (poison.messages, await app.dirty()) == ({}, 40)
