"""Signature version 4 of AWS, for S3: what every request to the VAST side is authorised with (facts/vast.md 3).

botocore's signer costs a fifth of the processor time of a small copy; tests hold this one to it, header by header.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": 80, "https": 443}
UNSIGNED = "UNSIGNED-PAYLOAD"
"""In place of the body's hash, where TLS and Content-MD5 cover the body."""


def sha256_hex(data: bytes) -> str:
    """Hash of a body, as the signature wants it."""
    return hashlib.sha256(data).hexdigest()


class Signer:
    """Signs requests to one endpoint with one pair of keys."""

    def __init__(
        self, endpoint: str, access_key: str, secret_key: str, region: str, now_seconds: Callable[[], float] = time.time
    ) -> None:
        """*endpoint*: URL whose host and port the requests go to."""
        self._host: Final = _host(endpoint)
        self._access_key: Final = access_key
        self._secret_key: Final = secret_key
        self._region: Final = region
        self._now_seconds = now_seconds

    def signed(self, method: str, path: str, query: str, headers: Mapping[str, str], payload: str) -> dict[str, str]:
        """All headers to send: *headers* and those that authorise the request.

        Args:
            method: HTTP method.
            path: as sent, percent-encoded once.
            query: as sent, each value percent-encoded; may be empty.
            headers: without Host and Authorization.
            payload: ``sha256_hex`` of the body, or ``UNSIGNED``.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now_seconds()))
        sent = {**headers, "X-Amz-Date": stamp, "X-Amz-Content-SHA256": payload}
        told = {name.lower(): " ".join(value.split()) for name, value in sent.items()}
        told["host"] = self._host
        names = sorted(told)
        lines = "".join(f"{name}:{told[name]}\n" for name in names)
        signed = ";".join(names)
        canonical = f"{method}\n{path}\n{_sorted(query)}\n{lines}\n{signed}\n{payload}"
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        key = _signing_key(self._secret_key, stamp[:8], self._region)
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{sha256_hex(canonical.encode())}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"{self._access_key}/{scope}"
        sent["Authorization"] = f"{_ALGORITHM} Credential={credential}, SignedHeaders={signed}, Signature={signature}"
        return sent


def _sorted(query: str) -> str:
    if "&" not in query:
        return query
    return "&".join("=".join(pair) for pair in sorted(part.partition("=")[::2] for part in query.split("&")))


@lru_cache(maxsize=16)
def _signing_key(secret_key: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _host(endpoint: str) -> str:
    """As a Host header has it: lower case, without the scheme's own port."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f"{host}:{parts.port}"
