"""What is signed for VAST is what botocore signs by itself, although it is spared what is known already."""

from __future__ import annotations

import datetime as dt

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from federation.stores import wire
from federation.stores.base import Request
from federation.stores.vast_s3 import VastS3Store

LARGE = b"l" * (1024**2 + 1)
REQUESTS = [
    Request("GET", "GET", "a b/\u00e9+~*", headers={"Range": "bytes=0-9", "If-Match": '"x"'}),
    Request("HEAD", "HEAD", "k"),
    Request(
        "PUT",
        "PutObject",
        "k",
        headers={"Content-MD5": wire.content_md5(bytes(16)), "x-amz-meta-a": " two  words "},
        body=b"x",
    ),
    Request(
        "PUT",
        "UploadPart",
        "k",
        {"uploadId": "u/+", "partNumber": "2"},
        {"Content-MD5": wire.content_md5(bytes(16))},
        LARGE,
    ),
    Request("POST", "CompleteMultipartUpload", "k", {"uploadId": "u"}, {"Content-Type": "application/xml"}, b"<x/>"),
    Request("GET", "ListObjectsV2", query={"list-type": "2", "prefix": "a&b=c d"}),
]


@pytest.fixture(autouse=True)
def _one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    at = dt.datetime(2025, 11, 21, 10, 0, tzinfo=dt.UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: at)


@pytest.mark.parametrize(
    "endpoint", ["http://VAST.example:9000", "https://vast.example", "https://vast.example:443", "http://[::1]:90"]
)
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one.operation)
async def test_the_signature_is_botocores(endpoint: str, request_: Request) -> None:
    """Host, payload hash and signature of every kind of request, over TLS and without; the headers sent are those signed."""
    store = VastS3Store(endpoint=endpoint, bucket="b", access_key="key", secret_key="secret")
    url, headers = await store._authorised(request_)
    judged = AWSRequest(request_.method, url, headers=dict(request_.headers or {}), data=request_.body or b"")
    judged.context["payload_signing_enabled"] = "Content-MD5" not in judged.headers  # over plain HTTP it signs all the same
    S3SigV4Auth(Credentials("key", "secret"), "s3", "us-east-1").add_auth(judged)
    assert headers["Authorization"] == judged.headers["Authorization"]
    assert headers["X-Amz-Content-SHA256"] == judged.headers["X-Amz-Content-SHA256"]
    assert set(headers) - {"Host"} == set(judged.headers.keys())
    await store.close()
