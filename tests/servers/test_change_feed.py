"""The change feed in the real emulator: the commands about it, and the source under faults of the service."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import ContainerClient

from federation.clock import SystemClock
from federation.payloads.event_grid import BlobScope
from federation.sources.change_feed import ChangeFeed, FeedOptions
from federation.state.memory_state import MemoryState
from federation.stores.change_feed import AzureChangeFeed
from fedplane import exit_codes
from fedplane.localstack.info import StackInfo
from tests.feed import recordings
from tests.feed.writer import Feed, fresh_container, hour, record
from tests.servers.stack_lab import Lab
from tests.servers.support import QuickClock, Sink, eventually, no_scan, running

pytestmark = pytest.mark.servers
SCOPE = BlobScope("", "datasets", "", lambda name: name)


class Commands:
    """``fedplane changefeed`` on the stack."""

    def __init__(self, info: StackInfo) -> None:
        settings = {"FEDERATION__PAIR__DEMO__BLOB__CHANGE_FEED__ENABLED": "true"}
        self._environment = {**os.environ, **info.environment(), **settings}
        self._environment["FEDERATION_CONFIG"] = str(Path(info.state_dir) / "federation.toml")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command to its end."""
        command = [sys.executable, "-m", "fedplane.cli", "changefeed", *words]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603

    def rows(self, *words: str) -> list[dict[str, Any]]:
        """Its JSON lines."""
        done = self.run(*words, "--json")
        assert done.returncode == exit_codes.OK, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def commands(info: StackInfo) -> Commands:
    """The commands on the session's stack."""
    return Commands(info)


@pytest.fixture
def container(info: StackInfo) -> Iterator[ContainerClient]:
    """An empty ``$blobchangefeed``, gone afterwards."""
    client = fresh_container(info.connection_string(direct=True))
    yield client
    client.delete_container()
    client.close()


@pytest.fixture
def feed(container: ContainerClient) -> Feed:
    """Two segments of ten records of the pair and one of another container, uploaded."""
    made = Feed()
    made.placeholder()
    for segment in (1, 2):
        made.segment(hour(segment), shards=2, finalized=segment == 1)
        for shard in (0, 1):
            first = segment * 100 + shard * 10
            made.append(
                hour(segment), [record(first + one, f"k{first + one}", hour(segment, one)) for one in range(5)], shard=shard
            )
    made.append(hour(2), [record(999, "x", hour(2), container="other")])
    made.index(hour(2))
    made.upload(container)
    return made


def _source(info: StackInfo, sink: Sink) -> ChangeFeed:
    blobs = AzureChangeFeed(account_url="", connection_string=info.connection_string(), credential=None)
    clock = QuickClock()
    state = MemoryState("pair", shards=4, clock=clock)
    options = FeedOptions(start="start", poll_seconds=0.05)
    return ChangeFeed(blobs, "acct", SCOPE, state, sink, clock, owner="one", on_gap=no_scan, options=options)


@pytest.mark.usefixtures("feed")
async def test_faults_of_the_service_lose_nothing(info: StackInfo, lab: Lab) -> None:
    """While half of the requests are refused or cut, and afterwards, each record is marked once; the fault is told meanwhile."""
    lab.control("PUT", "/faults/blob", {"requests": {"error": 0.3, "cut": 0.3}})
    sink = Sink()
    source = _source(info, sink)
    async with running(source):
        await eventually(lambda: source.health()["last_error"] != "", "a fault is told")
        lab.control("PUT", "/faults/blob", {})
        await eventually(lambda: len(sink.keys) == 20, "all are marked")
        await eventually(lambda: source.health()["connected"] == 1, "a whole look succeeded")
    assert len(set(sink.keys)) == 20


async def test_growth_is_followed(info: StackInfo, container: ContainerClient, feed: Feed) -> None:
    """Blocks, chunks and segments that are appended in the emulator are marked as they come."""
    sink = Sink()
    async with running(_source(info, sink)):
        await eventually(lambda: len(sink.keys) == 20, "what was there")
        for number in range(5):
            begin = hour(2 + number // 3)
            feed.segment(begin, shards=2)
            feed.append(begin, [record(2000 + number, f"late{number}", begin)], shard=number % 2, chunk=number % 2)
            feed.index(begin)
            await asyncio.to_thread(feed.upload, container)
        await eventually(lambda: sorted(sink.keys)[20:] == [f"late{number}" for number in range(5)], "what was added")


@pytest.mark.usefixtures("feed")
def test_show_prints_the_pairs_records(commands: Commands) -> None:
    """In order of segments; of a window of time exactly; with --all those of other containers; as lines for people."""
    rows = commands.rows("show")
    assert len(rows) == 20
    assert [row["eventTime"][:13] for row in rows] == sorted(row["eventTime"][:13] for row in rows)
    assert len(commands.rows("show", "--all")) == 21
    window = commands.rows("show", "--from", "2026-11-01T01:02:00Z", "--to", "2026-11-01T01:04:00Z")
    assert sorted(row["id"][-3:] for row in window) == sorted(f"{100 + number:03x}" for number in (2, 3, 12, 13))
    assert len(commands.rows("show", "--limit", "3")) == 3
    text = commands.run("show", "--limit", "1").stdout
    assert all(part in text for part in ("2026-11-01T01:00:00", "BlobCreated", "PutBlob", "datasets/k100", "0x8DD"))


@pytest.mark.usefixtures("feed")
def test_show_goes_on_where_it_stopped(commands: Commands, tmp_path: Path) -> None:
    """With a file for the position, sittings of seven records bring each record once."""
    file = str(tmp_path / "position")
    sittings = [commands.rows("show", "--limit", "7", "--position", file) for _ in range(4)]
    assert [len(one) for one in sittings] == [7, 7, 6, 0]
    assert len({row["id"] for one in sittings for row in one}) == 20
    (tmp_path / "position").write_text("no position")
    done = commands.run("show", "--position", file)
    assert (done.returncode, file in done.stderr) == (exit_codes.USAGE, True)


@pytest.mark.usefixtures("feed")
def test_tail_follows_until_it_has_enough(commands: Commands) -> None:
    """From the start it prints what is there, and ends at its limit."""
    assert len(commands.rows("tail", "--from", "start", "--limit", "4")) == 4


@pytest.mark.usefixtures("feed")
def test_cursor_and_rewind(commands: Commands) -> None:
    """The cursor is shown with what the index says; a rewind is compare-and-set and shows at once."""
    [before] = commands.rows("cursor")
    assert before["last_consumable_us"] == int(hour(2).timestamp()) * 1_000_000
    [moved] = commands.rows("rewind", "--to", "2026-11-01T02:00:00Z")
    assert moved["from"] == before["position"]
    [after] = commands.rows("cursor")
    assert after["position"] == moved["to"]
    assert after["position"]["from_us"] == int(hour(2).timestamp()) * 1_000_000
    assert abs(SystemClock().now_us() - after["moved_us"]) < 120_000_000
    assert "nobody" in commands.run("cursor").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("rewind", "--to", "yesterday"), "--to: 'yesterday' is no time"),
        (("show", "--from", "12"), "--from: '12' is no time"),
        (("tail", "--from", ""), "--from: '' is no time"),
    ],
)
def test_wrong_times_are_named(commands: Commands, words: tuple[str, ...], said: str) -> None:
    """The option and what it wants, no traceback."""
    done = commands.run(*words)
    assert done.returncode == exit_codes.USAGE
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["show", "cursor", "tail"])
def test_an_account_without_a_feed_is_told(commands: Commands, command: str) -> None:
    """What to do is said, and the exit status is that of something that is not there."""
    done = commands.run(command)
    assert done.returncode == exit_codes.UNREACHABLE
    assert "turn the change feed on" in done.stderr


@pytest.mark.parametrize("fixture", recordings.fixtures(), ids=lambda path: path.name)
def test_show_prints_each_recording_exactly(commands: Commands, container: ContainerClient, fixture: Path) -> None:
    """A recorded feed, uploaded to the emulator, is printed whole: every record once with every field as recorded."""
    stored = Feed(recordings.container(fixture))
    stored.upload(container)
    rows = {row["id"]: row for row in commands.rows("show", "--all")}
    recorded = reversed(recordings.expected(fixture))
    assert rows == {row["id"]: {name: value for name, value in row.items() if name[0] != "_"} for row in recorded}
