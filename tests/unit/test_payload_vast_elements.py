"""VAST's other forms: element attributes, binary CloudEvents, coded data, the canary."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.model import Side
from federation.payloads import Malformed
from federation.payloads.vast import CANARY_KEY, CanaryEvent, VastScope, parse

MD5 = "0cc175b9c0f1b6a831c399e269772661"


def _scope(encoding: str = "percent") -> VastScope:
    return VastScope("datasets", "", encoding, lambda name: name)


def _record(name: str = "s3:ObjectCreated:Put", key: str = "a.txt") -> dict[str, Any]:
    return {"eventName": name, "s3": {"bucket": {"name": "datasets"}, "object": {"key": key, "eTag": MD5}}}


def _body(*records: Any) -> bytes:  # noqa: ANN401 - any JSON
    return json.dumps({"Records": list(records)}).encode()


def _element(kind: str, path: str = "datasets/dir/a.txt", **more: object) -> dict[str, Any]:
    return {"specversion": "1.0", "type": f"vastdata.com:Element.{kind}", "elementpath": path, "elementhandle": 77} | more


@pytest.mark.parametrize(
    ("kind", "deleted"),
    [("ElementCreated", False), ("ElementDeleted", True), ("ElementTagCreated", False), ("ElementTagDeleted", False)],
)
@pytest.mark.parametrize("form", ["structured", "binary", "binary with a hyphen"])
def test_element_attributes_name_the_object_where_there_are_no_records(kind: str, deleted: bool, form: str) -> None:
    """All four element events, as attributes of the message or as Kafka headers; only the path is needed."""
    event = _element(kind, time="2023-11-14T22:13:20.123456Z")
    body, headers = json.dumps(event).encode(), []
    if form != "structured":
        mark = "ce_" if form == "binary" else "ce-"
        body, headers = b"", [(mark + name, str(value).encode()) for name, value in event.items()]
    [change] = parse(body, _scope(), headers).changes
    assert (change.key, change.deleted, change.etag, change.at and change.at.at_us) == (
        "dir/a.txt",
        deleted,
        None,
        1_700_000_000_123_456,
    )


def test_records_are_read_in_binary_mode() -> None:
    """The attributes are headers and the message is the data, records included: these say more than the attributes."""
    headers = [("ce_type", b"vastdata.com:Element.ElementCreated"), ("ce_elementpath", b"datasets/other"), ("trace", None)]
    [change] = parse(_body(_record()), _scope(), headers).changes
    assert (change.key, change.etag) == ("a.txt", "0cc175b9c0f1b6a831c399e269772661")


@pytest.mark.parametrize("how", ["text", "base64"])
def test_the_data_of_a_cloud_event_may_be_coded(how: str) -> None:
    """As a text that holds JSON, or in base64, both of which CloudEvents allow."""
    inner = _body(_record())
    data = {"data": inner.decode()} if how == "text" else {"data_base64": base64.b64encode(inner).decode()}
    event = _element("ElementCreated", "datasets/other") | data
    assert [change.key for change in parse(json.dumps(event).encode(), _scope()).changes] == ["a.txt"]


@pytest.mark.parametrize("event", [_element("ElementCreated", 5), _element("Moved", ""), {"type": 5}, {"data_base64": "?"}])  # type: ignore[arg-type]
def test_an_element_event_without_a_name_is_malformed_or_ignored(event: dict[str, Any]) -> None:
    """It marks nothing and raises nothing but Malformed."""
    with suppress(Malformed):
        assert parse(json.dumps(event).encode(), _scope()).changes == []


def test_an_element_of_another_bucket_is_refused() -> None:
    """The path's first part is the bucket."""
    parsed = parse(json.dumps(_element("ElementCreated", "other/a")).encode(), _scope())
    assert (parsed.changes, dict(parsed.refused)) == ([], {"foreign_bucket": 1})


def test_the_canary_is_told_and_marks_nothing() -> None:
    """Its event proves the way; the object itself is the plane's own and is never synchronised."""
    parsed = parse(_body(_record(key=CANARY_KEY)), _scope("auto"))
    assert parsed.canary == CanaryEvent("0cc175b9c0f1b6a831c399e269772661", frozenset({"raw"}))
    assert (parsed.changes, parsed.ambiguous, parsed.ignored["excluded"]) == ([], [], 1)


@pytest.mark.parametrize("name", ["s3:ObjectRemoved:Delete", "s3:ObjectTagging:Put"])
def test_only_a_write_of_the_canary_counts(name: str) -> None:
    """An operator who removes the object proves nothing of writes."""
    assert parse(_body(_record(name, key=CANARY_KEY)), _scope()).canary is None


@given(st.binary(), st.lists(st.tuples(st.sampled_from(["ce_type", "ce_elementpath", "ce-time", "x"]), st.none() | st.binary())))
def test_any_headers_parse_or_are_malformed(body: bytes, headers: list[tuple[str, bytes | None]]) -> None:
    """Nor do any headers make the parser raise anything else."""
    with suppress(Malformed):
        assert all(change.side is Side.VAST for change in parse(body, _scope(), headers).changes)
