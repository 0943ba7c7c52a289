"""``doctor`` tells all it found, each under its own name, whatever fails."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from federation.errors import FederationError, Halt, RetryLater, UsageError
from federation.model import ListEntry, Side
from federation.settings import PairSettings
from federation.wiring import PairRuntime
from fedplane import checks, cli, event_checks, exit_codes
from fedplane.checks import Finding
from fedplane.commands import common, doctor
from tests.unit.test_abilities import runtime

PAIR = """
[[pair]]
name = "{name}"
[pair.blob]
account_url = "https://a.example"
container = "c"
[pair.vast]
endpoint = "https://v.example"
bucket = "{name}"
access_key_env = "A"
secret_key_env = "B"
"""


def _bad_listing(pair: PairRuntime, side: Side) -> None:
    """Its lists are none, but for those of the probes."""
    store = pair.stores[side]._store  # type: ignore[attr-defined]
    listing = store.list

    async def broken(*, prefix: str = "", start_after: str = "") -> AsyncIterator[ListEntry]:
        if not prefix:
            raise RetryLater("no list page", reason="bad_listing", side=side)
        async for entry in listing(prefix=prefix, start_after=start_after):
            yield entry

    store.list = broken


async def test_a_list_that_cannot_be_read_is_told_as_such() -> None:
    """It is the side's, not Redis's, and what was found of the side before and after stays."""
    _, pair = runtime()
    _bad_listing(pair, Side.VAST)
    found = {one.what: one for one in await checks.side(pair, Side.VAST)}
    assert (found["vast: list"].level, found["vast: list"].found) == ("unreachable", "bad_listing")
    assert found["vast: rights"].level == found["vast: clock"].level == "ok"
    assert "state" not in found


class _Lab:
    """Pairs ``one`` and ``two`` in memory; *refused* says which cannot be opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.refused: dict[str, FederationError] = {}
        self.mistake: UsageError | None = None
        self._config = path / "federation.toml"
        self._config.write_text(PAIR.format(name="one") + PAIR.format(name="two"))
        self._patch = monkeypatch
        monkeypatch.setattr(common, "configure_logging", lambda *_, **__: None)
        monkeypatch.setattr(doctor, "open_pair", self._open)
        monkeypatch.setattr(checks, "redis", self._redis)
        monkeypatch.setattr(event_checks, "sources", self._sources)

    @asynccontextmanager
    async def _open(self, settings: object, pair: PairSettings, *_: object, **__: object) -> AsyncIterator[PairRuntime]:
        del settings
        if pair.name in self.refused:
            raise self.refused[pair.name]
        yield runtime()[1]

    async def _redis(self, _: object) -> list[Finding]:
        return [Finding(what="redis", level="ok", found="reachable")]

    async def _sources(self, *_: object) -> list[Finding]:
        if self.mistake is not None:
            raise self.mistake
        return []

    def ask(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]], str]:
        """Exit status, levels by pair and name, and standard error."""
        self._patch.setattr(sys, "argv", ["fedplane", "doctor", "--json", "--config", str(self._config)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        found = {name: {one["what"]: one["level"] for one in many} for name, many in json.loads(said.out).items()}
        assert isinstance(ended.value.code, int)
        return ended.value.code, found, said.err


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Lab:
    """Nothing is refused yet."""
    return _Lab(monkeypatch, tmp_path)


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_mistake_in_one_pair_hides_nothing_of_the_other(lab: _Lab, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Redis and the other pair are told; the mistake is named and still ends it as one."""
    lab.refused[name] = UsageError("the variable B is not set")
    status, found, error = lab.ask(capsys)
    other = "two" if name == "one" else "one"
    assert status == exit_codes.USAGE
    assert found["redis"] == {"redis": "ok"}
    assert found[f"pair {name}"] == {"pair": "broken"}
    assert found[f"pair {other}"]["vast: rights"] == "ok"
    assert "variable B" in error


def test_a_mistake_outweighs_a_halt(lab: _Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads the exit status alone corrects the settings first."""
    lab.refused = {"one": Halt("refused", reason="credentials"), "two": UsageError("layout", reason="state_layout")}
    status, found, _ = lab.ask(capsys)
    assert status == exit_codes.USAGE
    assert found["pair one"] == {"pair": "unreachable"}


def test_state_is_what_cannot_be_read_when_it_cannot_be_opened(lab: _Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """The other pair is looked at all the same."""
    lab.refused["one"] = RetryLater("Redis is away", reason="redis_unavailable")
    status, found, _ = lab.ask(capsys)
    assert status == exit_codes.UNREACHABLE
    assert found["pair one"] == {"state": "unreachable"}
    assert found["pair two"]["vast: rights"] == "ok"


def test_a_mistake_in_the_events_leaves_what_the_sides_said(lab: _Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """They come last, and are a mistake like any other."""
    lab.mistake = UsageError("the variable Q is not set")
    status, found, _ = lab.ask(capsys)
    assert status == exit_codes.USAGE
    assert found["pair one"]["vast: rights"] == "ok"
    assert found["pair one"]["pair"] == "broken"
