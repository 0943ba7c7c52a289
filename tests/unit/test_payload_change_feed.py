"""Change feed records: every type, names as they are, snapshots and versions, what is another's, any record at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import keys
from federation.model import Change, Side, Source, Stamp, StampOrigin
from federation.payloads import Parsed
from federation.payloads.change_feed import blob_of, names_pair, parse, time_of
from federation.payloads.event_grid import BlobScope

ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"
SCOPE = BlobScope(ACCOUNT, "datasets", "", lambda name: keys.decode(name, keys.policy_for(Side.BLOB)))
AT = Stamp(1_700_000_000_123_456, 1, StampOrigin.CHANGE_FEED)


def _record(kind: str = "BlobCreated", name: str = "a.txt", container: str = "datasets", **data: Any) -> dict[str, Any]:  # noqa: ANN401
    """A record as version 5 writes it; *data* replaces fields of its ``data``."""
    return {
        "schemaVersion": 5,
        "topic": ACCOUNT,
        "subject": f"/blobServices/default/containers/{container}/blobs/{name}",
        "eventType": kind,
        "eventTime": "2023-11-14T22:13:20.1234567Z",
        "id": "7a9f1094-40e5-4ce5-8883-000000000001",
        "data": {"api": "PutBlob", "etag": "0x8DC1", "contentLength": 5, "blobType": "BlockBlob", "url": "", "snapshot": None}
        | data,
    }


def _parsed(*records: dict[str, Any], scope: BlobScope = SCOPE, from_us: int = 0) -> Parsed:
    parsed, unreadable = parse(records, scope, from_us=from_us)
    assert unreadable == []
    return parsed


@pytest.mark.parametrize(
    ("kind", "data", "etag", "deleted"),
    [
        ("BlobCreated", {}, "0x8DC1", False),
        ("BlobCreated", {"api": "CopyBlob", "etag": '"0x8DC1"'}, "0x8DC1", False),
        ("BlobCreated", {"api": "UndeleteBlob"}, "0x8DC1", False),
        ("BlobCreated", {"etag": ""}, None, False),
        ("AppendBlobDataUpdated", {"blobType": "AppendBlob"}, "0x8DC1", False),
        ("BlobPropertiesUpdated", {"api": "SetBlobMetadata", "blobPropertiesUpdated": None}, "0x8DC1", False),
        ("BlobPropertiesUpdated", {"blobPropertiesUpdated": {"ContentType": {"current": "a", "previous": "b"}}}, "0x8DC1", False),
        ("BlobTierChanged", {"previousInfo": {"PreviousTier": "Hot"}}, None, False),
        ("BlobAsyncOperationInitiated", {"asyncOperationInfo": {"CopyId": "c"}}, None, False),
        ("BlobTagsUpdated", {"api": "SetBlobTags", "blobTagsUpdated": {"current": {}}}, None, False),
        ("BlobTypeOfTomorrow", {}, None, False),
        ("BlobDeleted", {"etag": "0x8DC9"}, None, True),
        ("BlobDeleted", {"previousInfo": {"LastVersion": "2022-02-17T16:11:52.0781797Z"}, "blobVersion": None}, None, True),
        ("BlobDeleted", {"blobVersion": "2022-02-17T16:11:52.5901564Z"}, None, False),
    ],
)
def test_each_record_is_one_change(kind: str, data: dict[str, Any], etag: str | None, deleted: bool) -> None:
    """A version is named only by records of content or properties; a delete of one version is no word that the blob is gone."""
    assert _parsed(_record(kind, **data)).changes == [
        Change("a.txt", Side.BLOB, Source.CHANGE_FEED, etag=etag, deleted=deleted, at=AT)
    ]


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("Control", {"api": "ControlEvent"}, "control"),
        ("BlobSnapshotCreated", {"snapshot": "2022-02-17T16:09:16.7261278Z"}, "snapshot"),
        ("BlobDeleted", {"snapshot": "2022-02-17T16:09:16.7261278Z"}, "of_a_snapshot"),
        ("BlobTierChanged", {"snapshot": "2022-02-17T16:09:16.7261278Z"}, "of_a_snapshot"),
        ("BlobLastAccessTimeUpdated", {}, "access_time"),
        ("RestorePointMarkerCreated", {"restorePointMarker": {"rpi": "1"}}, "restore_point"),
    ],
)
def test_what_leaves_the_blob_as_it_was_is_counted(kind: str, data: dict[str, Any], reason: str) -> None:
    """Snapshots, markers and control records mark nothing."""
    parsed = _parsed(_record(kind, **data))
    assert (parsed.changes, parsed.ignored) == ([], {reason: 1})


def test_a_control_record_need_not_name_a_blob() -> None:
    """It is about the feed itself."""
    assert _parsed(_record("Control") | {"subject": ""}).ignored == {"control": 1}


@pytest.mark.parametrize(
    "name",
    [
        "/lead",
        "a//b",
        "x/blobs/y",
        "x/containers/y/blobs/z",
        "q?x=1#f",
        "back\\slash",
        "spät 文字",
        "%D1%80",
        "a+b",
        '"quoted"',
        "😀",
    ],
)
def test_names_are_taken_as_they_are(name: str) -> None:
    """A subject is raw UTF-8 and never decoded, and a name may itself look like a part of a subject (facts/azure.md 2.6)."""
    scope = BlobScope(ACCOUNT, "datasets", "", lambda given: given)
    assert [change.key for change in _parsed(_record(name=name), scope=scope).changes] == [name]
    assert blob_of(_record(name=name)) == ("datasets", name)


def test_only_the_pairs_part_is_marked() -> None:
    """Other containers and prefixes of the account are passed over; another account is refused; our own prefix is excluded."""
    scope = BlobScope(ACCOUNT, "datasets", "in/", lambda name: name)
    parsed = _parsed(
        _record(name="in/x"),
        _record(name="in/"),
        _record(name="out/x"),
        _record(name="in/x", container="other"),
        _record(name="in/.federation/conflicts/x"),
        _record(name="in/x") | {"topic": ACCOUNT + "x"},
        _record(name="in/y") | {"topic": ACCOUNT.upper()},
        scope=scope,
    )
    assert [change.key for change in parsed.changes] == ["x", "y"]
    assert parsed.ignored == {"outside_prefix": 2, "other_container": 1, "excluded": 1}
    assert parsed.refused == {"foreign_account": 1}
    assert names_pair(_record(name="in/x"), scope)
    assert not names_pair(_record(name="out/x"), scope)


def test_a_mangled_name_asks_for_a_scan() -> None:
    """A replacement character stands for a name that is not known: what begins alike is looked at."""
    parsed = _parsed(_record(name="dir/caf\ufffd"))
    assert (parsed.changes, parsed.scan_prefixes, parsed.ignored) == ([], {"dir/caf"}, {"unreadable_name": 1})


def test_records_of_before_the_start_are_passed_over() -> None:
    """Those of the very moment and later count."""
    parsed = _parsed(_record(), _record(name="b") | {"eventTime": "2023-11-14T22:13:20.1234558Z"}, from_us=AT.at_us)
    assert ([change.key for change in parsed.changes], parsed.ignored) == (["a.txt"], {"before_start": 1})


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("2023-11-14T22:13:20.1234567Z", AT),
        ("2023-11-14T22:13:20Z", Stamp(1_700_000_000_000_000, 1_000_000, StampOrigin.CHANGE_FEED)),
        ("2023-11-14T23:13:20.123456+01:00", AT),
        ("2023-13-14T22:13:20.1234567Z", None),
        ("2023-11-14T22:13:20.12٣4567Z", None),
        ("soon", None),
        (None, None),
    ],
)
def test_times(text: object, stamp: Stamp | None) -> None:
    """Seven digits as the service writes them, and anything else that is a time."""
    assert time_of({"eventTime": text}) == stamp


@pytest.mark.parametrize(
    "broken",
    [
        {"eventType": None},
        {"eventType": ""},
        {"data": None},
        {"subject": "/blobServices/default/containers/datasets"},
        {"subject": None},
        {"subject": "/blobServices/default/containers/datasets/blobs/"},
    ],
)
def test_an_unreadable_record_is_handed_back_and_the_others_count(broken: dict[str, Any]) -> None:
    """It comes with its reason, and what it told of is for a scan."""
    parsed, unreadable = parse([_record(), _record() | broken, _record(name="b")], SCOPE)
    assert [change.key for change in parsed.changes] == ["a.txt", "b"]
    assert len(unreadable) == 1
    assert unreadable[0][0]
    assert parsed.needs_scan


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda some: st.dictionaries(st.text(max_size=8), some),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(_record(), _JSON) | {"eventType": st.sampled_from(["BlobCreated", "BlobDeleted"])}
    )
)
def test_any_record_is_read_or_handed_back(record: dict[str, Any]) -> None:
    """Whatever its fields hold, no error comes out, and only keys of our container are marked."""
    parsed, unreadable = parse([_record() | record], SCOPE)
    total = len(parsed.changes) + len(unreadable) + sum(parsed.ignored.values()) + sum(parsed.refused.values())
    assert total == 1
