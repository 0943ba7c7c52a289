"""Event Grid events that name more, or less, than one blob: renames, directories, mangled names, inventories; order; framing."""

from __future__ import annotations

import base64
import json
from itertools import permutations
from typing import Any

import pytest

from federation import keys
from federation.model import Change, Side, Source, Stamp, StampOrigin
from federation.payloads import Malformed, Parsed
from federation.payloads.event_grid import BlobScope, parse, structured
from federation.payloads.sequencer import order

ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"
FILES = "https://acct.dfs.core.windows.net"
AT = Stamp(1_700_000_000_123_456, 1, StampOrigin.EVENT)


def _scope(prefix: str = "") -> BlobScope:
    return BlobScope(ACCOUNT, "datasets", prefix, lambda name: keys.decode(name, keys.policy_for(Side.BLOB)))


def _event(kind: str, name: str, container: str = "datasets", **data: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    return {
        "topic": ACCOUNT,
        "subject": f"/blobServices/default/containers/{container}/blobs/{name}",
        "eventType": f"Microsoft.Storage.{kind}",
        "eventTime": "2023-11-14T22:13:20.1234567Z",
        "data": data,
    }


def _parse(*events: dict[str, Any], prefix: str = "") -> Parsed:
    return parse(json.dumps(list(events)).encode(), _scope(prefix))


@pytest.mark.parametrize(
    ("name", "prefix", "scanned"),
    [
        ("a/b/photo-\ufffd.jpg", "", "a/b/photo-"),
        ("a/b/\ufffd", "", "a/b/"),
        ("\ufffd", "", ""),
        ("in/x\ufffd", "in/", "x"),
        ("in/\ufffd", "in/", ""),
        ("a/dot.\ufffd", "", "a/"),
        ("a/quote\u201b\ufffd", "", "a/"),
        ("wide\uff3c/x\ufffd", "", "wide\\/"),
        ("a/wide\uff3cx\ufffd", "", "a/"),
    ],
)
def test_a_mangled_name_scans_its_readable_beginning(name: str, prefix: str, scanned: str) -> None:
    """A name with U+FFFD marks nothing: what begins with its readable part is scanned, never less than may be meant."""
    parsed = _parse(_event("BlobCreated", name), prefix=prefix)
    assert (parsed.changes, parsed.scan_prefixes, parsed.ignored["unreadable_name"]) == ([], {scanned}, 1)
    assert parsed.needs_scan == (scanned == "")


@pytest.mark.parametrize(
    ("kind", "name", "prefix", "scanned"),
    [
        ("DirectoryDeleted", "dir", "", "dir/"),
        ("DirectoryDeleted", "a/dir/", "", "a/dir/"),
        ("DirectoryDeleted", "in/dir", "in/", "dir/"),
        ("DirectoryDeleted", "in", "in/", ""),
        ("DirectoryDeleted", "in", "in/deep/", ""),
        ("DirectoryDeleted", "ends.", "", ""),
    ],
)
def test_a_directory_event_scans_what_is_below_it(kind: str, name: str, prefix: str, scanned: str) -> None:
    """Also of a directory that holds the whole pair, or whose name no key has."""
    parsed = _parse(_event(kind, name, recursive="true"), prefix=prefix)
    assert (parsed.changes, parsed.scan_prefixes, parsed.ignored["directory"]) == ([], {scanned}, 1)


def test_a_new_directory_holds_nothing_yet() -> None:
    """Each blob that comes into it is told of by itself; another container's is refused all the same."""
    parsed = _parse(_event("DirectoryCreated", "dir"), _event("DirectoryCreated", "dir", container="other"))
    assert (parsed.scan_prefixes, parsed.ignored["directory"], dict(parsed.refused)) == (set(), 1, {"foreign_container": 1})


@pytest.mark.parametrize("name", [".federation/conflicts", ".snapshot/daily"])
def test_the_planes_own_directories_are_left_out(name: str) -> None:
    """What is never synchronised is never scanned for."""
    parsed = _parse(_event("DirectoryDeleted", name))
    assert (parsed.scan_prefixes, parsed.ignored["excluded"]) == (set(), 1)


def test_a_name_that_cannot_be_read_and_may_be_a_user_s_is_scanned_for() -> None:
    """``.snapshot`` and something that was mangled is not below ``.snapshot/``."""
    parsed = _parse(_event("BlobCreated", ".snapshot\ufffd"))
    assert parsed.scan_prefixes == {".snapshot"}


def test_a_directory_outside_the_prefix_is_refused() -> None:
    """Another part of the container is not this pair's."""
    parsed = _parse(_event("DirectoryDeleted", "inbox"), prefix="in/")
    assert (parsed.scan_prefixes, dict(parsed.refused)) == (set(), {"outside_prefix": 1})


@pytest.mark.parametrize(
    ("source", "target", "scanned"),
    [
        (f"{FILES}/datasets/old", f"{FILES}/datasets/new", {"old/", "new/"}),
        (f"{FILES}/datasets/a%20b", f"{FILES}/datasets/new", {"a", "new/"}),
        (f"{FILES}/datasets/x/%C3%BC/y", f"{FILES}/datasets/new", {"x/", "new/"}),
        (f"{FILES}/other/old", f"{FILES}/datasets/new", {"new/"}),
        ("https://stranger.dfs.core.windows.net/datasets/old", f"{FILES}/datasets/new", {"new/"}),
        (None, f"{FILES}/datasets/new", {"", "new/"}),
        (f"{FILES}/datasets", f"{FILES}/datasets/new", {"", "new/"}),
    ],
)
def test_a_renamed_directory_scans_both_names(source: str | None, target: str, scanned: set[str]) -> None:
    """A URL that may be read in two ways scans what both begin with; one that is missing, everything; a foreign one, nothing."""
    parsed = _parse(_event("DirectoryRenamed", "new", sourceUrl=source, destinationUrl=target))
    assert (parsed.scan_prefixes, dict(parsed.refused)) == (scanned, {})


def test_a_directory_renamed_out_of_the_prefix_scans_its_old_name() -> None:
    """The event is ours when either end is."""
    urls = {"sourceUrl": f"{FILES}/datasets/in/old", "destinationUrl": f"{FILES}/datasets/out/new"}
    parsed = _parse(_event("DirectoryRenamed", "out/new", **urls), prefix="in/")
    assert (parsed.scan_prefixes, parsed.refused.total(), parsed.ignored["other_end_elsewhere"]) == ({"old/"}, 0, 2)


@pytest.mark.parametrize("api", ["RenameFile", "SftpRename"])
def test_a_rename_marks_both_names(api: str) -> None:
    """The old name as deleted, the new one as changed, both at the rename's time."""
    urls = {"sourceUrl": f"{FILES}/datasets/a/old", "destinationUrl": f"{FILES}/datasets/a/new"}
    parsed = _parse(_event("BlobRenamed", "a/new", api=api, **urls))
    old = Change("a/old", Side.BLOB, Source.EVENT_GRID, deleted=True, at=AT)
    new = Change("a/new", Side.BLOB, Source.EVENT_GRID, at=AT)
    assert set(parsed.changes) == {old, new}
    assert parsed.scan_prefixes == set()


def test_a_rename_that_cannot_be_read_for_sure_scans_the_folder() -> None:
    """What percent signs in the URL mean is not documented: nothing is guessed."""
    urls = {"sourceUrl": f"{FILES}/datasets/a/o%20ld", "destinationUrl": f"{FILES}/datasets/a/new"}
    parsed = _parse(_event("BlobRenamed", "a/new", **urls))
    assert {change.key for change in parsed.changes} == {"a/new"}
    assert parsed.scan_prefixes == {"a/o"}


def test_a_blob_renamed_out_of_the_container_is_gone_here() -> None:
    """The subject is another container's, the old name ours."""
    urls = {"sourceUrl": f"{FILES}/datasets/old", "destinationUrl": f"{FILES}/other/new"}
    parsed = _parse(_event("BlobRenamed", "new", container="other", **urls))
    assert [(change.key, change.deleted) for change in parsed.changes] == [("old", True)]
    assert parsed.refused.total() == 0


def test_a_rename_elsewhere_is_refused() -> None:
    """Neither end is ours."""
    urls = {"sourceUrl": f"{FILES}/other/old", "destinationUrl": f"{FILES}/other/new"}
    parsed = _parse(_event("BlobRenamed", "new", container="other", **urls))
    assert (parsed.changes, dict(parsed.refused)) == ([], {"foreign_container": 1})


@pytest.mark.parametrize(("status", "scanned"), [("Succeeded", {""}), (None, {""}), ("Failed", set())])
def test_a_finished_inventory_wakes_the_reconciler(status: str | None, scanned: set[str]) -> None:
    """One that failed early has nothing to tell; its subject names no blob."""
    event = _event("BlobInventoryPolicyCompleted", "x", policyRunStatus=status)
    parsed = _parse(event | {"subject": "BlobDataManagement/BlobInventory"})
    assert (parsed.changes, parsed.scan_prefixes) == ([], scanned)


def test_one_bad_event_of_a_batch_asks_for_a_whole_scan() -> None:
    """The others count; what it told of may be anywhere."""
    parsed = _parse(_event("BlobCreated", "a"), {"eventType": "Microsoft.Storage.BlobCreated", "topic": ACCOUNT})
    assert [change.key for change in parsed.changes] == ["a"]
    assert (parsed.needs_scan, parsed.ignored["malformed_in_batch"]) == (True, 1)


# ------------------------------------------------------------------------------------------------------------------- order

SHORT = "00000000000004420000000000028963"
LONG = "00000000000000000000000000028964000000000000AbCd"


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (SHORT, SHORT.upper(), 0),
        (SHORT, "00000000000004420000000000028964", -1),
        ("0000ab", "0000AC", -1),
        ("b", "0A", 1),
        (SHORT, "0" * 16 + SHORT, 0),
        (LONG, SHORT, 1),
        ("", SHORT, None),
        (None, SHORT, None),
        (SHORT, "not hex", None),
        (5, 6, None),
    ],
    ids=str,
)
def test_sequencers_compare_padded_and_without_case(one: object, two: object, expected: int | None) -> None:
    """Of both published lengths, in any case; what is no sequencer compares with nothing."""
    assert order(one, two) == expected
    assert order(two, one) == (None if expected is None else -expected)


def test_many_events_of_one_blob_are_its_oldest_and_newest() -> None:
    """In whatever order they come in one delivery: since when it waits, and which version to expect."""
    told = [_event("BlobCreated", "hot", eTag=f"0x{n}", sequencer=f"{n:032x}") for n in (9, 10, 255)]
    for shuffled in permutations(told):
        assert [change.etag for change in _parse(*shuffled, _event("BlobCreated", "other")).changes] == ["0x9", "0x255", None]


@pytest.mark.parametrize("sequencer", [None, "", "?"])
def test_without_comparable_sequencers_every_event_stays(sequencer: object) -> None:
    """What cannot be ordered is not left out."""
    told = [_event("BlobCreated", "hot", eTag=str(n), sequencer=sequencer if n == 1 else f"{n:032x}") for n in range(4)]
    assert [change.etag for change in _parse(*told).changes] == ["0", "1", "2", "3"]


# ----------------------------------------------------------------------------------------------------------------- framing


def _cloud() -> dict[str, Any]:
    event = _event("BlobCreated", "ü.txt", eTag="0x1")
    names = {"topic": "source", "eventType": "type", "eventTime": "time"}
    return {names.get(name, name): value for name, value in event.items()} | {"specversion": "1.0", "id": "1"}


def test_data_in_base64_is_read() -> None:
    """A publisher may send a CloudEvent's data as bytes."""
    event = _cloud()
    event["data_base64"] = base64.b64encode(json.dumps(event.pop("data")).encode()).decode()
    assert [change.etag for change in _parse(event).changes] == ["0x1"]


@pytest.mark.parametrize("packed", ["!", "bm8gSlNPTg=="])
def test_data_in_base64_that_is_none_is_malformed(packed: str) -> None:
    """It is kept, not read as an event without data."""
    with pytest.raises(Malformed):
        _parse({name: value for name, value in _cloud().items() if name != "data"} | {"data_base64": packed})


def test_binary_mode_is_the_same_event() -> None:
    """Attributes in headers, percent-encoded, the data in the body."""
    event = _cloud()
    data = event.pop("data")
    headers = {f"CE-{name}": value.replace("ü", "%C3%BC") for name, value in event.items()}
    body = structured(headers | {"Content-Type": "application/json"}, json.dumps(data).encode())
    assert parse(body, _scope()).changes == _parse(_cloud()).changes


def test_other_bodies_are_left_as_they_are() -> None:
    """Without the attributes of an event in the headers, the body is the event."""
    assert structured({"ce-id": "1", "Content-Type": "application/cloudevents+json"}, b"x") == b"x"


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000])
def test_binary_mode_with_other_data_is_malformed(body: bytes) -> None:
    """Storage's events have JSON for data."""
    with pytest.raises(Malformed):
        structured({"ce-type": "t", "ce-specversion": "1.0"}, body)


def test_dead_lettered_events_are_the_events_they_were() -> None:
    """With the fields that Event Grid adds to either schema, or wrapped as a namespace's subscription writes them."""
    grid = _event("BlobCreated", "a") | {"deadLetterReason": "MaxDeliveryAttemptsExceeded", "deliveryAttempts": 30}
    cloud = _cloud() | {"deadletterreason": "TimeToLiveExceeded", "deliveryattempts": 3}
    wrapped = {"deadLetterProperties": {"deadletterreason": "x", "deliveryattempts": 1}, "event": _cloud()}
    parsed = _parse(grid, cloud, wrapped)
    assert ([change.key for change in parsed.changes], parsed.refused.total()) == (["a", "ü.txt", "ü.txt"], 0)
