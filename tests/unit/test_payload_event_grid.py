"""Event Grid's payloads: both schemas, every storage event, odd names, foreign events, any bytes."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import keys
from federation.errors import Park
from federation.model import Change, Side, Source, Stamp, StampOrigin
from federation.payloads import EVENT_LIMIT_BYTES, Malformed
from federation.payloads.event_grid import BlobScope, decode_queue_text, parse

ACCOUNT = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/acct"
SCOPE = BlobScope(ACCOUNT, "datasets", "", lambda name: keys.decode(name, keys.policy_for(Side.BLOB)))
AT = Stamp(1_700_000_000_123_456, 1, StampOrigin.EVENT)

OF_NO_BLOB = [
    "LifecyclePolicyCompleted",
    "StorageTaskQueued",
    "StorageTaskCompleted",
    "StorageTaskAssignmentQueued",
    "StorageTaskAssignmentCompleted",
]


def _subject(name: str, container: str = "datasets") -> str:
    return f"/blobServices/default/containers/{container}/blobs/{name}"


def _grid(kind: str, name: str = "a.txt", **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """An event in the Event Grid schema; *changes* replace fields."""
    event = {
        "topic": ACCOUNT,
        "subject": _subject(name),
        "eventType": f"Microsoft.Storage.{kind}",
        "eventTime": "2023-11-14T22:13:20.1234567Z",
        "id": "1",
        "data": {"api": "PutBlob", "eTag": "0x8DC1", "contentLength": 5},
        "dataVersion": "",
        "metadataVersion": "1",
    }
    return event | changes


def _cloud(event: dict[str, Any]) -> dict[str, Any]:
    """The same event as CloudEvents 1.0."""
    names = {"topic": "source", "eventType": "type", "eventTime": "time"}
    kept = {names.get(name, name): value for name, value in event.items() if not name.endswith("Version")}
    return kept | {"specversion": "1.0"}


def _body(*events: Any) -> bytes:  # noqa: ANN401 - any JSON
    return json.dumps(events[0] if len(events) == 1 else list(events)).encode()


@pytest.mark.parametrize("cloud", [False, True], ids=["event-grid", "cloud-events"])
@pytest.mark.parametrize("array", [False, True], ids=["object", "array"])
@pytest.mark.parametrize(
    ("kind", "data", "etag", "deleted"),
    [
        ("BlobCreated", {"api": "PutBlob", "eTag": "0x8DC1", "contentLength": 5}, "0x8DC1", False),
        ("BlobCreated", {"api": "PutBlockList", "eTag": '"0x8DC1"', "contentLength": 5}, "0x8DC1", False),
        ("BlobCreated", {"api": "CopyBlob", "eTag": ""}, None, False),
        ("BlobCreated", {"api": "PutBlob"}, None, False),
        ("BlobCreated", {"api": "PutBlob", "eTag": "0x8DC1", "contentLength": 0}, "0x8DC1", False),
        ("BlobCreated", {"api": "CreateFile", "eTag": "0x8DC1", "contentLength": 0}, None, False),
        ("BlobCreated", {"api": "FlushWithClose", "eTag": "0x8DC2", "contentLength": 5}, "0x8DC2", False),
        ("BlobCreated", {"api": "SftpCommit", "eTag": "0x8DC3", "contentLength": 5}, "0x8DC3", False),
        ("BlobDeleted", {"api": "DeleteBlob"}, None, True),
        ("BlobDeleted", {"api": "DeleteFile"}, None, True),
        ("BlobDeleted", {"api": "SftpRemove"}, None, True),
        ("BlobTierChanged", {"api": "SetBlobTier", "eTag": "0x8DC1"}, None, False),
        ("AsyncOperationInitiated", {"api": "SetBlobTier"}, None, False),
        ("AsyncOperationInitiated", {"api": "CopyBlob"}, None, False),
    ],
)
def test_each_event_names_one_change(
    kind: str,
    data: dict[str, Any],
    etag: str | None,
    deleted: bool,
    array: bool,
    cloud: bool,
) -> None:
    """A blob event of either schema, alone or in an array, is one mark with the version only where the event is about content."""
    event = _grid(kind, data=data)
    event = _cloud(event) if cloud else event
    parsed = parse(json.dumps([event] if array else event).encode(), SCOPE)
    assert parsed.changes == [Change("a.txt", Side.BLOB, Source.EVENT_GRID, etag=etag, deleted=deleted, at=AT)]
    assert (parsed.newest_us, parsed.needs_scan) == (AT.at_us, False)
    assert not parsed.refused + parsed.ignored


@pytest.mark.parametrize(
    "name",
    ["a/b/c", "x/blobs/y", "x/containers/z/blobs/y", "äöü/日本 語.txt", "100%25+ #?&", "a" * 1024, "blobs/", " lead", "'\""],
)
def test_names_come_through_as_they_are(name: str) -> None:
    """The subject is split at the first separators only, so whatever a blob's name holds stays in it."""
    assert [change.key for change in parse(_body(_grid("BlobCreated", name)), SCOPE).changes] == [name]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (_grid("BlobCreated", topic=ACCOUNT.replace("acct", "other")), "foreign_account"),
        (_grid("BlobCreated", topic=None), "foreign_account"),
        (_grid("BlobCreated", subject=_subject("a.txt", "other")), "foreign_container"),
        (_grid("BlobCreated", subject=_subject("a.txt", "Datasets")), "foreign_container"),
        (_grid("DirectoryDeleted", subject=_subject("d", "other")), "foreign_container"),
    ],
)
def test_what_is_not_ours_is_refused(event: dict[str, Any], reason: str) -> None:
    """Another account's or container's event marks nothing and is counted by reason."""
    parsed = parse(_body(event), SCOPE)
    assert (parsed.changes, dict(parsed.refused), parsed.needs_scan) == ([], {reason: 1}, False)


def test_accounts_compare_without_case() -> None:
    """Azure writes ARM ids in changing case; it is the same account."""
    assert len(parse(_body(_grid("BlobCreated", topic=ACCOUNT.upper() + "/")), SCOPE).changes) == 1


def test_without_an_account_setting_any_topic_is_taken() -> None:
    """The account is only checked where the settings name it."""
    scope = BlobScope("", "datasets", "", SCOPE.decode)
    assert len(parse(_body(_grid("BlobCreated", topic="/whatever")), scope).changes) == 1


@pytest.mark.parametrize(
    ("name", "key"),
    [("in/a.txt", "a.txt"), ("in/in/a", "in/a"), ("in/", None), ("in", None), ("other/a", None), ("IN/a", None)],
)
def test_a_prefix_is_taken_off(name: str, key: str | None) -> None:
    """With a prefix, keys are relative to it and what lies outside is refused."""
    parsed = parse(_body(_grid("BlobCreated", name)), BlobScope(ACCOUNT, "datasets", "in/", SCOPE.decode))
    assert [change.key for change in parsed.changes] == ([] if key is None else [key])
    assert parsed.refused["outside_prefix"] == (key is None)


@pytest.mark.parametrize("name", [".federation/conflicts/x", ".snapshot/daily/a", ".vast_trash/a"])
def test_the_planes_own_names_are_left_out(name: str) -> None:
    """Preserved copies and system folders are never synchronised."""
    parsed = parse(_body(_grid("BlobCreated", name)), SCOPE)
    assert (parsed.changes, parsed.ignored["excluded"]) == ([], 1)


def test_a_name_that_no_key_has_is_refused() -> None:
    """A name that the mapping cannot read is counted, and the rest of the delivery goes on."""

    def decode(name: str) -> str:
        if name == "bad":
            raise Park("no key has this name", reason="unrepresentable", key=name)
        return name

    parsed = parse(_body(_grid("BlobCreated", "bad"), _grid("BlobCreated", "good")), BlobScope(ACCOUNT, "datasets", "", decode))
    assert [change.key for change in parsed.changes] == ["good"]
    assert parsed.refused["unrepresentable"] == 1


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        *((f"Microsoft.Storage.{name}", "other_type") for name in OF_NO_BLOB),
        ("Microsoft.Storage.NotThoughtOfYet", "unknown_type"),
        ("Microsoft.Resources.ResourceWriteSuccess", "unknown_type"),
        ("Microsoft.EventGrid.SubscriptionDeletedEvent", "unknown_type"),
    ],
)
def test_other_types_are_counted_and_harmless(kind: str, reason: str) -> None:
    """Types that say nothing of a blob are ignored by count, known or not."""
    parsed = parse(_body(_grid("x", eventType=kind)), SCOPE)
    assert (parsed.changes, dict(parsed.ignored)) == ([], {reason: 1})


@pytest.mark.parametrize(
    ("text", "at_us", "precision_us"),
    [
        ("2023-11-14T22:13:20.1234567Z", 1_700_000_000_123_456, 1),
        ("2023-11-14T22:13:20.12345Z", 1_700_000_000_123_450, 10),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000, 1_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000_000, 1_000_000),
        ("2023-11-15T00:13:20.5+02:00", 1_700_000_000_500_000, 100_000),
        ("2023-11-14T20:13:20.5-02:00", 1_700_000_000_500_000, 100_000),
    ],
)
def test_times_keep_their_precision(text: str, at_us: int, precision_us: int) -> None:
    """Every documented form of a time is read, and the stamp says how fine it is."""
    [change] = parse(_body(_grid("BlobCreated", eventTime=text)), SCOPE).changes
    assert change.at == Stamp(at_us, precision_us, StampOrigin.EVENT)


@pytest.mark.parametrize("time", [None, "", "soon", "14/11/2023 22:13", 5, "2023-13-45T99:00:00Z", "0001-01-01T00:00:00+23:59"])
def test_a_time_that_cannot_be_read_is_unknown(time: object) -> None:
    """A missing or odd time never costs the mark: it is only not known."""
    [change] = parse(_body(_grid("BlobCreated", eventTime=time)), SCOPE).changes
    assert change.at is None


def test_the_subscription_handshake_gives_its_code() -> None:
    """The validation event carries the code to answer with, and marks nothing."""
    event = {
        "id": "1",
        "topic": ACCOUNT,
        "subject": "",
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "eventTime": "2023-11-14T22:13:20.1234567Z",
        "data": {"validationCode": "512d38b6", "validationUrl": "https://rp.example/validate"},
    }
    parsed = parse(_body(event, event), SCOPE)
    assert (parsed.validation_code, parsed.changes) == ("512d38b6", [])


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff\xfe", b"null", b"5", b'"text"', b"[1]", b"{}", b'{"eventType": 5}', b'{"eventType": ""}',
        b"[" * 100_000,
        _body({"eventType": "Microsoft.Storage.BlobCreated", "topic": ACCOUNT}),
        _body(_grid("BlobCreated", subject="/blobServices/default/containers/datasets")),
        _body(_grid("BlobCreated", subject=_subject(""))),
        _body(_grid("BlobCreated", "a" * EVENT_LIMIT_BYTES)),
        b'{"eventType":"\\ud800"}',
    ],
)  # fmt: skip
def test_malformed_is_said_so_and_never_quoted(body: bytes) -> None:
    """What is no event raises Malformed, whose text holds none of the payload."""
    with pytest.raises(Malformed) as caught:
        parse(body, SCOPE)
    assert len(str(caught.value)) < 120


def test_a_batch_may_be_larger_than_one_event() -> None:
    """The size limit is per event: a delivery of many small ones may exceed it."""
    events = [_grid("BlobCreated", f"{number}-{'a' * 900}") for number in range(1200)]
    body = _body(*events)
    assert len(body) > EVENT_LIMIT_BYTES
    assert len(parse(body, SCOPE).changes) == 1200


def test_queue_text_is_base64_or_json() -> None:
    """Event Grid writes base64; a person may write plain JSON; anything else is malformed."""
    body = _body(_grid("BlobCreated"))
    assert decode_queue_text(base64.b64encode(body).decode() + "\n") == body
    assert decode_queue_text(f"  {body.decode()}") == body
    for text in ("not base64!", "äöü", "abc"):
        with pytest.raises(Malformed):
            decode_queue_text(text)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.text()
    | st.sampled_from([ACCOUNT, _subject("a"), "Microsoft.Storage.BlobCreated"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*_grid("x"), "type", "api", "eTag"]) | st.text(), inner),
)


@given(st.binary())
def test_any_bytes_parse_or_are_malformed(body: bytes) -> None:
    """No bytes whatever make the parser raise anything else."""
    _parse_or_malformed(body)


@given(_JSON)
def test_any_json_parses_or_is_malformed(value: object) -> None:
    """Nor does any JSON, with our field names in odd places."""
    _parse_or_malformed(json.dumps(value).encode())


@given(st.text())
def test_any_queue_text_decodes_or_is_malformed(text: str) -> None:
    """Nor any text of a queue message."""
    with suppress(Malformed):
        assert isinstance(decode_queue_text(text), bytes)


def _parse_or_malformed(body: bytes) -> None:
    with suppress(Malformed):
        assert all(change.side is Side.BLOB and change.key for change in parse(body, SCOPE).changes)
