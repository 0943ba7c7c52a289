"""Our signature is botocore's."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import quote, urlencode

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from federation.stores.sigv4 import UNSIGNED, Signer, sha256_hex

AT = datetime(2025, 11, 21, 10, 0, 7, tzinfo=UTC)
TEXT = st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
VALUE = st.lists(TEXT, min_size=1, max_size=3).map("  ".join)
NAMES = st.text(st.sampled_from("abcXYZ-09"), min_size=1, max_size=10).map(lambda name: f"x-amz-meta-{name}")
HEADERS = st.dictionaries(NAMES, VALUE, max_size=4).filter(lambda one: len({name.lower() for name in one}) == len(one))


def by_botocore(endpoint: str, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> dict[str, str]:
    """The headers that botocore would send."""
    request = AWSRequest(method, f"{endpoint}{path}" + (f"?{query}" if query else ""), headers=dict(headers), data=body)
    if "Content-MD5" in headers:
        request.context["payload_signing_enabled"] = False
    with patch.object(auth, "get_current_datetime", lambda: AT):
        auth.S3SigV4Auth(Credentials("AKEY", "secret"), "s3", "us-east-1").add_auth(request)
    return dict(request.headers.items())


def ours(endpoint: str, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> dict[str, str]:
    """The headers that we would send."""
    payload = UNSIGNED if "Content-MD5" in headers and endpoint.startswith("https") else sha256_hex(body)
    return Signer(endpoint, "AKEY", "secret", "us-east-1", AT.timestamp).signed(method, path, query, headers, payload)


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    query=st.dictionaries(TEXT, st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=4),
    headers=HEADERS,
    md5=st.booleans(),
    body=st.binary(max_size=64),
)
def test_any_request_is_signed_as_botocore_signs_it(
    method: str, key: str, query: dict[str, str], headers: dict[str, str], md5: bool, body: bytes
) -> None:
    """All headers are equal, for odd names, queries in any order and values with runs of spaces."""
    headers |= {"Content-MD5": "x" * 22 + "=="} if md5 else {}
    what = (method, f"/bucket/{quote(key, safe='/')}", urlencode(query, quote_via=quote, safe=""), headers, body)
    assert ours("https://vast.example", *what) == by_botocore("https://vast.example", *what)


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:9000", "http://vast.example:80", "https://Vast.Example:443", "https://vast:8443", "http://[::1]:9000"],
)
def test_the_host_is_signed_as_it_is_sent(endpoint: str) -> None:
    """Lower case, without the scheme's own port, addresses of both kinds; over plain HTTP the body's hash is signed."""
    what = ("PUT", "/bucket/key", "", {"Content-MD5": "x" * 22 + "=="}, b"body")
    assert ours(endpoint, *what) == by_botocore(endpoint, *what)
