"""``fedplane events``: what Event Grid could not deliver, read back from Azurite and marked in a real Redis."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from azure.storage.blob import ContainerClient

from federation import settings, wiring
from federation.progress import DeadLetter
from federation.sources import event_grid_dead
from fedplane import cli, exit_codes
from fedplane.localstack.info import StackInfo
from reconciler.wanted import asked

pytestmark = pytest.mark.servers
ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"


@dataclass
class Lab:
    """Commands on a pair of their own, and the container that Event Grid would dead-letter to."""

    container: ContainerClient
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def run(self, *words: str) -> tuple[int, Any]:
        """Exit status and JSON of ``fedplane events``."""
        self.monkeypatch.setattr(sys, "argv", ["fedplane", "events", *words, "--json"])
        status = cli._run()
        told = self.capsys.readouterr()
        return status, json.loads(told.out or told.err)

    def keep(self, name: str, *events: object) -> None:
        """A blob of undelivered events."""
        self.container.upload_blob(name, json.dumps(list(events)))

    def known(self) -> tuple[set[str], set[str]]:
        """What the state has: dirty keys, and scans asked for."""

        async def look() -> tuple[set[str], set[str]]:
            config = settings.load()
            async with wiring.open_state(config, config.pair[0]) as state:
                return set(await state.dirty_keys(limit=99)), set(await asked(state))

        return asyncio.run(look())


def _event(name: str, kind: str = "BlobCreated", **changes: object) -> dict[str, Any]:
    """As Event Grid keeps it: with why and how often it was tried."""
    return {
        "topic": ACCOUNT,
        "subject": f"/blobServices/default/containers/datasets/blobs/{name}",
        "eventType": f"Microsoft.Storage.{kind}",
        "eventTime": "2023-11-14T22:13:20.1234567Z",
        "id": name,
        "data": {"api": "PutBlob", "eTag": "0x8DC1", "contentLength": 5},
        "dataVersion": "",
        "metadataVersion": "1",
        "deadLetterReason": "MaxDeliveryAttemptsExceeded",
        "deliveryAttempts": 30,
        "lastDeliveryOutcome": "NotFound",
        "publishTime": "2023-11-14T22:13:21.1Z",
        "lastDeliveryAttemptTime": "2023-11-15T22:13:20.1Z",
    } | changes


@pytest.fixture
def lab(info: StackInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Lab]:
    """A pair that nothing is known of yet."""
    name = f"dead-{uuid4().hex[:12]}"
    file = tmp_path / "federation.toml"
    file.write_text(f"""
[redis]
url = "{info.redis_url}"
[[pair]]
name = "{name}"
[pair.blob]
account_url = "{info.blob_endpoint}"
container = "datasets"
connection_string_env = "TEST_BLOB"
[pair.blob.events]
account_id = "{ACCOUNT}"
[pair.vast]
endpoint = "{info.s3_endpoint}"
bucket = "datasets"
access_key_env = "A"
secret_key_env = "S"
""")
    monkeypatch.setenv("FEDERATION_CONFIG", str(file))
    monkeypatch.setenv("TEST_BLOB", info.connection_string())
    monkeypatch.setenv("FEDERATION__PAIR__0__BLOB__EVENTS__DEAD_LETTER_CONTAINER", name)
    with ContainerClient.from_connection_string(info.connection_string(), name) as container:
        container.create_container()
        yield Lab(container, monkeypatch, capsys)


def test_undelivered_events_are_marked(lab: Lab) -> None:
    """Of both schemas, by the same rules as delivered ones; twice is as once, and the blobs stay."""
    cloud = {"specversion": "1.0", "source": ACCOUNT, "type": "Microsoft.Storage.BlobDeleted", "deadletterreason": "x"}
    lab.keep("SUB/2026/1/2/3/a.json", _event("a"), _event("b"), _event("c", topic=ACCOUNT + "x"))
    lab.keep("SUB/2026/1/2/4/b.json", cloud | {"subject": _event("d")["subject"], "id": "4"}, _event("dir", "DirectoryDeleted"))
    for _ in range(2):
        status, [done] = lab.run("replay")
        assert (status, done["blobs"], done["named"], done["marked"], done["refused"]) == (0, 2, 3, 3, {"foreign_account": 1})
        assert done["scans"] == ["dir/"]
        assert lab.known() == ({"a", "b", "d"}, {"dir/"})
    assert len(list(lab.container.list_blob_names())) == 2


def test_a_dry_run_only_tells(lab: Lab) -> None:
    """What would be marked and scanned; nothing is written."""
    lab.keep("SUB/a.json", _event("a"), _event("dir", "DirectoryDeleted"))
    status, [done] = lab.run("replay", "--dry-run")
    assert (status, done["dry_run"], done["named"], done["marked"], done["scans"]) == (0, True, 1, 0, ["dir/"])
    assert lab.known() == (set(), set())


def test_a_prefix_and_another_container_are_taken(lab: Lab) -> None:
    """Only what was asked for."""
    lab.keep("SUB/2026/1/a.json", _event("a"))
    lab.keep("SUB/2026/2/b.json", _event("b"))
    lab.monkeypatch.delenv("FEDERATION__PAIR__0__BLOB__EVENTS__DEAD_LETTER_CONTAINER")
    status, [done] = lab.run("replay", "--container", lab.container.container_name, "--prefix", "SUB/2026/2/")
    assert (status, done["blobs"], lab.known()[0]) == (0, 1, {"b"})


def test_what_holds_no_events_is_told_and_the_rest_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file in the container, or one too large to be events."""
    monkeypatch.setattr(event_grid_dead, "BLOB_LIMIT_BYTES", 2000)
    lab.container.upload_blob("a.txt", b"hello")
    lab.container.upload_blob("b.json", b"[" + b" " * 3000 + b"]")
    lab.keep("c.json", _event("c"))
    status, [done] = lab.run("replay")
    assert (status, done["unreadable"], done["unreadable_names"]) == (exit_codes.PROBLEMS, 2, ["a.txt", "b.json"])
    assert lab.known()[0] == {"c"}


@pytest.mark.parametrize(
    ("container", "words", "told"),
    [("", [], "--container"), (None, ["--container", "not-there-at-all"], "'not-there-at-all'")],
)
def test_a_container_that_is_not_known_is_a_clear_error(lab: Lab, container: str | None, words: list[str], told: str) -> None:
    """It says which setting or option to use."""
    if container is not None:
        lab.monkeypatch.setenv("FEDERATION__PAIR__0__BLOB__EVENTS__DEAD_LETTER_CONTAINER", container)
    status, error = lab.run("replay", *words)
    assert (status, told in error["error"], error["reason"]) == (exit_codes.USAGE, True, "no_container")


def test_what_could_not_be_read_is_listed(lab: Lab) -> None:
    """With source, time and reason, as it came; the newest so many."""

    async def bury() -> None:
        config = settings.load()
        async with wiring.open_state(config, config.pair[0]) as state:
            for number in range(3):
                await state.bury(DeadLetter("event_grid_queue", f"reason {number}", b"raw", number))

    assert lab.run("dead")[1][0]["letters"] == []
    asyncio.run(bury())
    status, [found] = lab.run("dead", "--limit", "2")
    assert (status, found["kept"]["kept"]) == (0, 3)
    assert [(one["reason"], one["raw"]) for one in found["letters"]] == [("reason 1", "cmF3"), ("reason 2", "cmF3")]
