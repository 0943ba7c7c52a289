"""VAST's records: plain notifications and CloudEvents, every documented variant, key encodings, any bytes."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import keys
from federation.model import Change, Side, Source, Stamp, StampOrigin
from federation.payloads import EVENT_LIMIT_BYTES, Malformed
from federation.payloads.vast import VastScope, parse

MD5 = "0cc175b9c0f1b6a831c399e269772661"
AT = Stamp(1_700_000_000_123_456, 1, StampOrigin.EVENT)
_POLICY = keys.policy_for(Side.VAST)


def _scope(encoding: str = "percent", prefix: str = "") -> VastScope:
    return VastScope("datasets", prefix, encoding, lambda name: keys.decode(name, _POLICY))


def _record(name: str = "s3:ObjectCreated:Put", key: str = "a.txt", **item: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """A record as VAST documents it; *item* are fields of the object."""
    return {
        "eventVersion": "2.2",
        "eventSource": "vast:s3",
        "eventTime": "2023-11-14T22:13:20.123456Z",
        "eventName": name,
        "userIdentity": {"principalId": "someone"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": "datasets", "ownerIdentity": {"principalId": "o"}, "arn": "arn:vast:s3:::datasets"},
            "object": {"key": key, "size": 1, "eTag": MD5, "sequencer": "00f100000000000f4240"} | item,
        },
    }


def _body(*records: Any) -> bytes:  # noqa: ANN401 - any JSON
    return json.dumps({"Records": list(records)}).encode()


@pytest.mark.parametrize("prefix", ["s3:", ""], ids=["with-s3", "without-s3"])
@pytest.mark.parametrize(
    ("name", "etag", "deleted"),
    [
        ("ObjectCreated:Put", MD5, False),
        ("ObjectCreated:Post", MD5, False),
        ("ObjectCreated:Copy", MD5, False),
        ("ObjectCreated:CompleteMultipartUpload", MD5, False),
        ("ObjectCreated:NotThoughtOfYet", MD5, False),
        ("ObjectRemoved:Delete", None, True),
        ("ObjectRemoved:DeleteMarkerCreated", None, True),
        ("ObjectTagging:Put", None, False),
        ("ObjectTagging:Delete", None, False),
    ],
)
def test_each_event_names_one_change(name: str, etag: str | None, deleted: bool, prefix: str) -> None:
    """Every event, with or without ``s3:``, is one mark, with the version only where it is about content."""
    parsed = parse(_body(_record(prefix + name)), _scope())
    assert parsed.changes == [Change("a.txt", Side.VAST, Source.VAST_EVENTS, etag=etag, deleted=deleted, at=AT)]
    assert parsed.newest_us == AT.at_us


@pytest.mark.parametrize("etag", [MD5, f'"{MD5}"'])
def test_etags_lose_their_quotes(etag: str) -> None:
    """VAST writes them bare, versitygw with quotes."""
    assert parse(_body(_record(eTag=etag)), _scope()).changes[0].etag == MD5


@pytest.mark.parametrize("etag", [None, "", '""', 5])
def test_an_etag_that_is_not_there_is_unknown(etag: object) -> None:
    """No ETag is no reason to lose the mark."""
    assert parse(_body(_record(eTag=etag)), _scope()).changes[0].etag is None


@pytest.mark.parametrize("size", [7, "7", None, {}])
def test_any_form_of_size_is_fine(size: object) -> None:
    """The documentation quotes it, the logs do not; nothing depends on it."""
    assert len(parse(_body(_record(size=size)), _scope()).changes) == 1


def test_only_what_is_needed_must_be_there() -> None:
    """Time, ARN, user and sequencer may all be missing."""
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "datasets"}, "object": {"key": "a"}}}
    assert parse(_body(record), _scope()).changes == [Change("a", Side.VAST, Source.VAST_EVENTS)]


@pytest.mark.parametrize("arn", ["arn:vast:s3:::datasets", "arn:aws:s3:::datasets", None])
def test_either_arn_is_fine(arn: str | None) -> None:
    """Published logs and documentation differ; the bucket's name decides."""
    record = _record()
    record["s3"]["bucket"]["arn"] = arn
    assert len(parse(_body(record), _scope()).changes) == 1


@pytest.mark.parametrize("time", ["2023-11-14T22:13:20.12345Z", "2023-11-14T22:13:20.123450Z", "2023-11-14T22:13:20.1234500000Z"])
def test_any_number_of_digits_is_a_time(time: str) -> None:
    """Five digits in the template, six in the example: any number is read."""
    [change] = parse(_body(_record() | {"eventTime": time}), _scope()).changes
    assert change.at is not None
    assert change.at.at_us == 1_700_000_000_123_450


@pytest.mark.parametrize("array", [False, True], ids=["object", "array"])
def test_records_are_found_in_a_cloud_event(array: bool) -> None:
    """A DataEngine trigger wraps the same records as ``data``."""
    event = {
        "specversion": "1.0",
        "type": "vastdata.com:Element.ElementCreated",
        "elementpath": "datasets/a.txt",
        "data": {"Records": [_record("ObjectCreated:Put")]},
    }
    body = json.dumps([event, event] if array else event).encode()
    assert [change.key for change in parse(body, _scope()).changes] == ["a.txt"] * (2 if array else 1)


def test_no_records_are_no_changes() -> None:
    """An empty list is a message like any other."""
    parsed = parse(_body(), _scope())
    assert (parsed.changes, parsed.ambiguous, dict(parsed.refused)) == ([], [], {})


def test_several_records_are_several_changes() -> None:
    """A message may hold more than one."""
    assert [c.key for c in parse(_body(_record(key="a"), _record(key="b")), _scope()).changes] == ["a", "b"]


@pytest.mark.parametrize(
    ("encoding", "written", "key"),
    [
        ("raw", "a%20b+c", "a%20b+c"),
        ("percent", "a%20b+c", "a b+c"),
        ("percent", "%E6%97%A5/%2B%25", "日/+%"),
        ("percent", "a+b", "a+b"),
        ("auto", "plain/name.txt", "plain/name.txt"),
        ("auto", "100%", "100%"),
    ],
)
def test_a_key_with_one_reading_is_a_change(encoding: str, written: str, key: str) -> None:
    """Under a known encoding, or where all of them agree, a record is one change."""
    parsed = parse(_body(_record(key=written)), _scope(encoding))
    assert ([change.key for change in parsed.changes], parsed.ambiguous) == ([key], [])


@pytest.mark.parametrize(
    ("written", "readings"),
    [
        ("a%20b+c", {"a b+c": {"percent"}, "a%20b+c": {"raw"}, "a b c": {"plus"}}),
        ("a+b", {"a+b": {"percent", "raw"}, "a b": {"plus"}}),
        ("a%2Fb", {"a/b": {"percent", "plus"}, "a%2Fb": {"raw"}}),
    ],
)
def test_a_key_with_several_readings_is_ambiguous(written: str, readings: dict[str, set[str]]) -> None:
    """No page says how keys are written: under ``auto`` every reading is offered with the spellings that lead to it."""
    parsed = parse(_body(_record(key=written)), _scope("auto"))
    [found] = parsed.ambiguous
    assert parsed.changes == []
    assert {change.key: set(spellings) for change, spellings in found.readings} == readings
    for spelling in ("percent", "raw", "plus"):
        chosen = [change.key for change in found.under(frozenset({spelling}))]
        assert chosen == [key for key, spellings in readings.items() if spelling in spellings]
    assert {change.key for change in found.under(frozenset({"percent", "raw", "plus"}))} == set(readings)


@pytest.mark.parametrize(("written", "key"), [("in/a", "a"), ("in%2Fa", "a"), ("in/", None), ("other", None)])
def test_a_prefix_is_taken_off(written: str, key: str | None) -> None:
    """Keys are relative to the pair's prefix; what lies outside is refused."""
    parsed = parse(_body(_record(key=written)), _scope(prefix="in/"))
    assert [change.key for change in parsed.changes] == ([] if key is None else [key])
    assert parsed.refused["outside_prefix"] == (key is None)


def test_another_bucket_is_refused() -> None:
    """A record of another bucket marks nothing and is counted."""
    record = _record()
    record["s3"]["bucket"]["name"] = "other"
    parsed = parse(_body(record, _record()), _scope())
    assert (len(parsed.changes), dict(parsed.refused)) == (1, {"foreign_bucket": 1})


@pytest.mark.parametrize("key", [".federation/x", ".snapshot/a", ".vast_trash/x"])
def test_system_names_are_left_out(key: str) -> None:
    """The plane's own and VAST's system names are never synchronised."""
    parsed = parse(_body(_record(key=key)), _scope("auto"))
    assert (parsed.changes, parsed.ignored["excluded"]) == ([], 1)


def test_the_test_event_is_harmless() -> None:
    """Saving a definition publishes a message without records."""
    body = json.dumps({"Service": "Vast S3", "Event": "s3:TestEvent", "Time": "2023-11-14T22:13:20Z", "Bucket": "datasets"})
    parsed = parse(body.encode(), _scope())
    assert (parsed.changes, dict(parsed.ignored)) == ([], {"test_event": 1})


def test_other_events_are_counted() -> None:
    """An event that says nothing of an object's state is ignored by count."""
    parsed = parse(_body(_record("s3:ObjectAccessed:Get")), _scope())
    assert (parsed.changes, dict(parsed.ignored)) == ([], {"other_event": 1})


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff", b"null", b"[]", b"{}", b'{"Records": {}}', b'{"data": []}', b"[" * 100_000, _body(5), _body({}),
        _body(_record() | {"s3": None}), _body(_record() | {"eventName": 5}), _body(_record(key="")),
        _body({"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "datasets"}, "object": {}}}),
        _body(_record(key="a" * EVENT_LIMIT_BYTES)),
    ],
)  # fmt: skip
def test_malformed_is_said_so_and_never_quoted(body: bytes) -> None:
    """What is no record raises Malformed, whose text holds none of the payload."""
    with pytest.raises(Malformed) as caught:
        parse(body, _scope())
    assert len(str(caught.value)) < 120


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from(["datasets", "s3:ObjectCreated:Put"]),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["Records", "data", "s3", "bucket", "object", "key", "name"]), inner)
    ),
)


@given(st.binary(), st.sampled_from(["auto", "raw", "percent"]))
def test_any_bytes_parse_or_are_malformed(body: bytes, encoding: str) -> None:
    """No bytes whatever make the parser raise anything else."""
    with suppress(Malformed):
        assert all(change.side is Side.VAST for change in parse(body, _scope(encoding)).changes)


@given(_JSON, st.sampled_from(["auto", "raw", "percent"]))
def test_any_json_parses_or_is_malformed(value: object, encoding: str) -> None:
    """Nor does any JSON, with our field names in odd places."""
    with suppress(Malformed):
        assert all(change.side is Side.VAST for change in parse(json.dumps(value).encode(), _scope(encoding)).changes)


@given(st.text(min_size=1), st.sampled_from(["auto", "raw", "percent"]))
def test_any_key_marks_ours_or_is_counted(key: str, encoding: str) -> None:
    """Whatever the key, the record is a mark of a key that has a name, or it is counted."""
    parsed = parse(_body(_record(key=key)), _scope(encoding))
    assert parsed.changes or parsed.ambiguous or parsed.refused or parsed.ignored
    assert all(change.key for change in [*parsed.changes, *(one for many in parsed.ambiguous for one, _ in many.readings)])
