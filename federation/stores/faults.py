"""What the services' refusals mean to the caller: by error code, then by status; the tables are in ``codes``.

The texts hold status and code only: a service's own message may quote signatures or keys (rule 10).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from federation.backoff import LONGEST_BACKOFF_SECONDS
from federation.errors import FederationError, Park, RetryLater
from federation.model import Side
from federation.stores.codes import AZURE, BY_STATUS, S3, SERVER, Meaning

_TABLES: Mapping[Side, Mapping[str, Meaning]] = {Side.BLOB: AZURE, Side.VAST: S3}
_SERVICES = {Side.BLOB: "Azure Blob", Side.VAST: "VAST S3"}
_HINTS = {
    "container_missing": "Check the container or bucket name and that it still exists.",
    "credentials_refused": "Check the credentials and the rights of the service's identity.",
    "clock_skewed": "Set this machine's clock (NTP); requests are signed with the time.",
}
_CODE_HINTS = {"AuthorizationHeaderMalformed": "Set region in [pair.vast] to the one that the server is set to."}
_NAME = re.compile(r"[A-Za-z0-9_.]{1,80}")
_CODE = re.compile(rb"<Code>([A-Za-z0-9_.]{1,80})</Code>")
_DAMAGE_WORDS = re.compile(rb"contentMD5|mismatches the content-length")
_KEY_WORDS = re.compile(rb"form of Server Side Encryption")
"""Of an object under a customer's own key (SSE-C), which we have not: the code says only that something is wrong."""
_LOCK_WORDS = re.compile(rb"object.?lock|retention|worm|immutab|indestructible", re.IGNORECASE)
_HOLD_WORDS = re.compile(rb"legal.?hold", re.IGNORECASE)
_MESSAGE = re.compile(rb"<Message>([^<]*)</Message>")
_NAMES = re.compile(rb"arn:\S+|&quot;.*?&quot;|\"[^\"]*\"|(?<!\w)'[^']*'")
"""In a message: of users, buckets and objects, which may hold any of the words above."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no success. ``code`` is empty where the answer had none (HEAD on S3)."""

    status: int
    code: str
    retry_after_seconds: float | None = None


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    """Read an answer that is no success: the code from the header (Azure) or the XML body."""
    found = _CODE.search(body)
    named = headers.get("x-ms-error-code", "")
    # Something between us and the service may write anything there; what is no code is not repeated.
    code = named if _NAME.fullmatch(named) else found[1].decode() if found else ""
    message = _MESSAGE.search(body)
    said = _NAMES.sub(b"", message[1]) if message else b""  # what stands around it names bucket and object
    if code == "AccessDenied" and _HOLD_WORDS.search(said):
        code = "ObjectOnLegalHold"
    elif code == "AccessDenied" and _LOCK_WORDS.search(said):
        code = "ObjectLocked"
    if code == "InvalidRequest" and _KEY_WORDS.search(body):
        code = "UserKeyMustBeSpecified"
    if code == "InvalidOperation" and _DAMAGE_WORDS.search(body):
        code = "Md5Mismatch"  # as the emulator words it
    return Refusal(status, code, retry_after_seconds(headers.get("Retry-After")))


def meaning(side: Side, status: int, code: str) -> Meaning:
    """Error class and reason. What no table names is safe: 5xx may be tried again, anything else is parked as refused."""
    found = _TABLES[side].get(code) or BY_STATUS.get(status)
    if found is not None:
        return found
    if status < HTTPStatus.BAD_REQUEST and not code:
        return RetryLater, "bad_answer"  # a redirect without the service's own code is of something between us and it
    return SERVER if status >= HTTPStatus.INTERNAL_SERVER_ERROR else (Park, "refused")


def known(side: Side, code: str) -> bool:
    """Whether the tables name *code*."""
    return code in _TABLES[side]


def unexplained(status: int) -> bool:
    """Whether a refusal with no more than *status* may be of anything: a failover's redirect, a wrong endpoint, a name."""
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in BY_STATUS


def fault(side: Side, refused: Refusal, *, operation: str, key: str = "") -> FederationError:
    """The error to raise for *refused*. A 404 without a code is not decided here: see ``HttpStore``."""
    kind, reason = meaning(side, refused.status, refused.code)
    text = f"{_SERVICES[side]} answered {refused.status} {refused.code or '(no code)'} to {operation}."
    hint = _CODE_HINTS.get(refused.code, _HINTS.get(reason))
    text = f"{text} {hint}" if hint else text
    if kind is RetryLater:
        return RetryLater(text, reason=reason, key=key, side=side, after_seconds=refused.retry_after_seconds)
    return kind(text, reason=reason, key=key, side=side)


def of_one_object(error: FederationError, refused: Refusal, *, key: str) -> Park:
    """What *error*, a refusal of our credentials, means where the same ones list the container."""
    if refused.code == "SignatureDoesNotMatch":
        text = "The server finds another signature than ours on this request, though it takes our keys: something on the way, or "
        text += f"the server itself, changes the name or a header ({refused.status} {refused.code})."
        return Park(text, reason="request_refused", key=key, side=error.side)
    return Park(str(error), reason="access_denied", key=key, side=error.side)


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or an HTTP date; None when it tells no time to come.

    At most ``LONGEST_BACKOFF_SECONDS``: a date is read by our clock, which may be off, and no key shall wait for a typing error.
    """
    try:
        text = (value or "").strip()
        seconds = float(text) if text.isdecimal() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(seconds, LONGEST_BACKOFF_SECONDS) if seconds > 0 else None
