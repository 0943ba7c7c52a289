"""The proxies' fault knobs and counters."""

from __future__ import annotations

import json
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError, ServiceRequestError, ServiceResponseError
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

from tests.servers.stack_lab import SIDES, Lab

pytestmark = [pytest.mark.servers, pytest.mark.parametrize("side", SIDES)]
CUT = (ServiceRequestError, ServiceResponseError, ConnectionClosedError, EndpointConnectionError)


def _faults(lab: Lab, side: str, **knobs: dict[str, Any]) -> None:
    lab.control("PUT", f"/faults/{side}", knobs)


def _refused(lab: Lab, side: str, key: str, *, engine: bool = False) -> tuple[int, str, str | None]:
    """Status, error code and Retry-After of a write that must be refused."""
    with pytest.raises((HttpResponseError, ClientError)) as refused:
        lab.put(side, key, engine=engine)
    error: Exception = refused.value
    if isinstance(error, ClientError):
        found = error.response["ResponseMetadata"]
        return found["HTTPStatusCode"], error.response["Error"]["Code"], found["HTTPHeaders"].get("retry-after")
    assert isinstance(error, HttpResponseError)
    assert error.response is not None
    headers = error.response.headers  # type: ignore[attr-defined]
    return error.status_code or 0, headers["x-ms-error-code"], headers.get("Retry-After")


# ----------------------------------------------------------------------------------------------------------------- events


def test_events_can_be_dropped(lab: Lab, side: str, key: str) -> None:
    """The write is done, its event never comes, and the counter tells."""
    _faults(lab, side, events={"drop": 1})
    lab.put(side, key)
    assert lab.get_direct(side, key) == b"x"
    assert lab.events(side, key, 0) == []
    assert lab.stats(side)["events"]["dropped"] == 1


def test_events_can_be_doubled(lab: Lab, side: str, key: str) -> None:
    """The same event comes twice."""
    _faults(lab, side, events={"duplicate": 1})
    lab.put(side, key)
    one, two = lab.events(side, key, 2)
    assert one == two
    assert lab.stats(side)["events"]["duplicated"] == 1


def test_events_can_be_delayed(lab: Lab, side: str, key: str) -> None:
    """The event comes, and no sooner than told."""
    _faults(lab, side, events={"delay_seconds": [0.4, 0.5]})
    written = time.monotonic()
    lab.put(side, key)
    lab.until(side, key, 1)
    assert time.monotonic() - written >= 0.4
    assert lab.stats(side)["events"]["delayed"] == 1


def test_events_can_be_shuffled(lab: Lab, side: str, key: str) -> None:
    """In groups, none lost; a group that does not fill up is let go after half a second."""
    _faults(lab, side, events={"reorder": 4, "seed": 1})
    names = [f"{key}/{number}" for number in range(6)]
    for name in names:
        lab.put(side, name)
    for name in names:
        lab.until(side, name, 1)
    for name in names:
        lab.events(side, name, 1)


# ----------------------------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize("status", [503, 429])
def test_requests_can_be_refused(lab: Lab, side: str, key: str, status: int) -> None:
    """With the service's own error code and Retry-After; nothing is written and nothing told."""
    _faults(lab, side, requests={"error": 1, "status": status, "retry_after_seconds": 7})
    code = {"blob": "ServerBusy", "vast": "SlowDown"}[side]
    assert _refused(lab, side, key) == (status, code, "7")
    assert lab.get_direct(side, key) is None
    assert lab.stats(side)["injected"]["errors"] == 1
    assert lab.events(side, key, 0) == []


@pytest.mark.parametrize(
    ("status", "codes"),
    [
        (404, {"blob": "ContainerNotFound", "vast": "NoSuchBucket"}),
        (403, {"blob": "AuthorizationFailure", "vast": "AccessDenied"}),
    ],
)
def test_a_side_can_be_missing_or_closed(lab: Lab, side: str, key: str, status: int, codes: dict[str, str]) -> None:
    """As the service words it when the container is not there, and when the credentials are refused."""
    _faults(lab, side, requests={"error": 1, "status": status})
    assert _refused(lab, side, key)[:2] == (status, codes[side])
    assert lab.get_direct(side, key) is None


def test_a_side_can_look_empty(lab: Lab, side: str, key: str) -> None:
    """Its listing has no entry, its objects are not found, and all is there again afterwards."""
    lab.put(side, key)
    _faults(lab, side, requests={"emptied": True})
    assert lab.names(side) == []
    with pytest.raises((ResourceNotFoundError, lab.s3.exceptions.NoSuchKey)):
        lab.get(side, key)
    _faults(lab, side)
    assert key in lab.names(side)
    assert lab.get(side, key) == b"x"


def test_what_was_listed_can_be_asked(lab: Lab, side: str, key: str) -> None:
    """Each page with its query, in order."""
    lab.put(side, key)
    lab.control("POST", "/stats/reset")
    lab.names(side)
    [page] = lab.control("GET", f"/listings/{side}")
    assert page["client"] == "user"
    assert {"blob": "comp=list", "vast": "list-type=2"}[side] in page["query"]


def test_faults_can_end_by_themselves(lab: Lab, side: str, key: str) -> None:
    """After the given time requests pass again."""
    began = time.monotonic()
    _faults(lab, side, requests={"error": 1, "for_seconds": 0.5})
    refused = 0
    while True:
        try:
            lab.put(side, key)
            break
        except (HttpResponseError, ClientError):
            refused += 1
            assert time.monotonic() - began < 10
    assert refused >= 1
    assert time.monotonic() - began >= 0.5


def test_faults_can_be_for_one_client_only(lab: Lab, side: str, key: str) -> None:
    """The engine is told by its User-Agent; users pass, or the other way round."""
    _faults(lab, side, requests={"error": 1, "client": "fedplane"})
    lab.put(side, key)
    assert _refused(lab, side, key, engine=True)[0] == 503
    _faults(lab, side, requests={"error": 1, "client": "user"})
    lab.put(side, key, b"y", engine=True)
    assert _refused(lab, side, key)[0] == 503
    assert lab.get_direct(side, key) == b"y"


def test_requests_can_be_slowed(lab: Lab, side: str, key: str) -> None:
    """Each waits as long as told."""
    _faults(lab, side, requests={"latency_ms": 300})
    began = time.monotonic()
    lab.put(side, key)
    assert time.monotonic() - began >= 0.3


def test_list_pages_can_be_held(lab: Lab, side: str, key: str) -> None:
    """One more than were let through waits until the knobs are set again; other requests pass meanwhile."""
    _faults(lab, side, requests={"list_pages": 1})
    lab.put(side, key)
    assert key in lab.names(side)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(lab.names, side)
        until = time.monotonic() + 20
        while not lab.stats(side)["held_pages"]:
            assert time.monotonic() < until
        assert lab.get(side, key) == b"x"
        assert not second.done()
        _faults(lab, side)
        assert key in second.result(20)
    assert lab.stats(side)["held_pages"] == 0


def test_connections_can_be_cut_before_the_effect(lab: Lab, side: str, key: str) -> None:
    """The client sees a broken connection and nothing happened."""
    _faults(lab, side, requests={"cut": 1})
    with pytest.raises(CUT):
        lab.put(side, key)
    assert lab.get_direct(side, key) is None
    assert lab.stats(side)["injected"]["cuts"] >= 1
    assert lab.events(side, key, 0) == []


def test_connections_can_be_cut_after_the_effect(lab: Lab, side: str, key: str) -> None:
    """The client sees a broken connection although the write was done, and its event comes."""
    _faults(lab, side, requests={"cut": 1, "cut_after_effect": True})
    with pytest.raises(CUT):
        lab.put(side, key)
    assert lab.get_direct(side, key) == b"x"
    lab.events(side, key, 1)


@pytest.mark.parametrize(
    ("knobs", "text"),
    [
        ({"events": {"drop": 1.5}}, "between 0 and 1"),
        ({"events": {"delay_seconds": [2, 1]}}, "smaller first"),
        ({"events": {"reorder": 0}}, "at least 1"),
        ({"requests": {"status": 418}}, "403, 404, 429, 500, 503"),
        ({"requests": {"client": "nobody"}}, "fedplane"),
        ({"requests": {"list_pages": -1}}, "at least 0"),
        ({"requests": {"no_such_knob": 1}}, "no_such_knob"),
        ([], "Expected"),
    ],
)
def test_a_wrong_knob_is_refused(lab: Lab, side: str, knobs: object, text: str) -> None:
    """With what is wrong, and what was set before stays."""
    _faults(lab, side, events={"drop": 0.25})
    with pytest.raises(urllib.error.HTTPError) as refused:
        lab.control("PUT", f"/faults/{side}", knobs)
    with refused.value as answer:
        assert (answer.code, text in json.loads(answer.read())["error"]) == (400, True)
    assert lab.control("GET", f"/faults/{side}")["events"]["drop"] == 0.25


def test_an_unknown_side_is_refused(lab: Lab, side: str) -> None:
    """There are two."""
    for method in ("GET", "PUT"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            lab.control(method, f"/faults/{side}s", {} if method == "PUT" else None)
        with refused.value as answer:
            assert answer.code == 404
    with pytest.raises(urllib.error.HTTPError) as refused:
        lab.control("GET", f"/listings/{side}s")
    with refused.value as answer:
        assert answer.code == 404


# ----------------------------------------------------------------------------------------------------------------- counters


def test_requests_are_counted_by_client_and_operation(lab: Lab, side: str, key: str) -> None:
    """The engine's and the users' apart, by operation and status; bytes of both ways; echoes among the events."""
    lab.put(side, key, b"1234567890")
    lab.put(side, key, b"12345", engine=True)
    if side == "blob":
        blob = lab.blobs.get_blob_client(key)
        assert blob.download_blob(max_concurrency=1).readall() == b"12345"
        blob.delete_blob()
        with pytest.raises(HttpResponseError):
            blob.delete_blob()
        # The SDK's put of the laboratory looks at the properties for the ETag.
        looks = {("fedplane", "HEAD", "head", "2xx"): 1, ("user", "HEAD", "head", "2xx"): 1}
    else:
        where = {"Bucket": lab.info.bucket, "Key": key}
        assert lab.s3.get_object(**where)["Body"].read() == b"12345"
        lab.s3.delete_object(**where)
        with pytest.raises(ClientError):
            lab.s3.get_object(**where)
        looks = {}
    lab.until(side, key, 3)
    stats = lab.stats(side)
    found = {(one["client"], one["method"], one["operation"], one["status"]): one["count"] for one in stats["requests"]}
    failed = ("user", "DELETE", "delete", "4xx") if side == "blob" else ("user", "GET", "get", "4xx")
    wanted = {("user", "PUT", "put", "2xx"): 1, ("fedplane", "PUT", "put", "2xx"): 1, ("user", "GET", "get", "2xx"): 1}
    assert found == wanted | looks | {("user", "DELETE", "delete", "2xx"): 1, failed: 1}
    moved = {(one["client"], one["operation"], one["of"]): one["bytes"] for one in stats["bytes"]}
    assert moved["user", "get", "answer"] >= 5
    assert moved["user", "put", "request"] >= 10
    events = stats["events"]
    assert (events["emitted"], events["echoes"], events["delivered"]) == (3, 1, 3)
    lab.control("POST", "/stats/reset")
    assert lab.stats(side)["requests"] == []
