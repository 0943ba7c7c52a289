"""What the services' refusals mean to the caller: one table for each service, by error code, then by status.

Codes: facts/azure.md 3.2, 3.6 and 3.7; facts/vast.md 3. The texts hold status and code only: a service's own message may quote
signatures or keys (rule 10).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from federation.errors import FederationError, Halt, NotPresent, Park, Reobserve, RetryLater
from federation.model import Side

Meaning = tuple[type[FederationError], str]
"""Error class and reason."""

_CREDENTIALS: Meaning = (Halt, "credentials_refused")
_MISSING: Meaning = (Halt, "container_missing")
_MOVED: Meaning = (Reobserve, "precondition")
_BUSY: Meaning = (RetryLater, "throttled")
_SERVER: Meaning = (RetryLater, "server_error")
_DAMAGED: Meaning = (RetryLater, "checksum_mismatch")
_IMMUTABLE: Meaning = (Park, "immutable")
_LEASED: Meaning = (Park, "leased")
_NAME: Meaning = (Park, "name_refused")
_METADATA: Meaning = (Park, "metadata_refused")
_TOO_LARGE: Meaning = (Park, "too_large")
_QUOTA: Meaning = (Park, "quota_full")
_ABSENT: Meaning = (NotPresent, "not_present")
_CLASH: Meaning = (Park, "name_clash")

AZURE: Mapping[str, Meaning] = {
    "BlobNotFound": _ABSENT,
    "ContainerNotFound": _MISSING,
    "ContainerBeingDeleted": _MISSING,
    "ContainerDisabled": _MISSING,
    "AccountIsDisabled": _CREDENTIALS,
    "AuthenticationFailed": _CREDENTIALS,
    "AuthorizationFailure": _CREDENTIALS,
    "AuthorizationPermissionMismatch": _CREDENTIALS,
    "AuthorizationProtocolMismatch": _CREDENTIALS,
    "AuthorizationResourceTypeMismatch": _CREDENTIALS,
    "AuthorizationServiceMismatch": _CREDENTIALS,
    "AuthorizationSourceIPMismatch": _CREDENTIALS,
    "InsufficientAccountPermissions": _CREDENTIALS,
    "InvalidAuthenticationInfo": _CREDENTIALS,
    "KeyBasedAuthenticationNotPermitted": _CREDENTIALS,
    "NoAuthenticationInformation": _CREDENTIALS,
    "PublicAccessNotPermitted": _CREDENTIALS,
    "ConditionNotMet": _MOVED,
    "TargetConditionNotMet": _MOVED,
    "SourceConditionNotMet": _MOVED,
    "BlobAlreadyExists": _MOVED,
    "UnauthorizedBlobOverwrite": _MOVED,
    "InvalidBlockList": _MOVED,
    "InvalidRange": _MOVED,
    "BlobArchived": (Park, "archived"),
    "BlobBeingRehydrated": (Park, "rehydrating"),
    "BlobImmutableDueToPolicy": _IMMUTABLE,
    "BlobImmutableDueToLegalHold": _IMMUTABLE,
    "ContainerImmutabilityPolicyLocked": _IMMUTABLE,
    "ContainerHasLegalHold": _IMMUTABLE,
    "LeaseIdMissing": _LEASED,
    "LeaseIdMismatchWithBlobOperation": _LEASED,
    "LeaseIdMismatchWithContainerOperation": _LEASED,
    "LeaseNotPresentWithBlobOperation": _LEASED,
    "LeaseNotPresentWithContainerOperation": _LEASED,
    "LeaseLost": _LEASED,
    "SnapshotsPresent": (Park, "snapshots_present"),
    "InvalidBlobType": (Park, "not_a_block_blob"),
    "BlockCountExceedsLimit": _TOO_LARGE,
    "BlockListTooLong": _TOO_LARGE,
    "RequestBodyTooLarge": _TOO_LARGE,
    "InvalidUri": _NAME,
    "InvalidResourceName": _NAME,
    "OutOfRangeInput": _NAME,
    "EmptyMetadataKey": _METADATA,
    "InvalidMetadata": _METADATA,
    "MetadataTooLarge": _METADATA,
    "ResourceTypeMismatch": _CLASH,
    "PathAlreadyExists": _CLASH,
    "Md5Mismatch": _DAMAGED,
    "Crc64Mismatch": _DAMAGED,
    "InvalidBlobOrBlock": (RetryLater, "foreign_blocks"),
    "PendingCopyOperation": (RetryLater, "copy_pending"),
    "AccountBeingCreated": _BUSY,
    "ServerBusy": _BUSY,
    "SystemInUse": _BUSY,
    "InternalError": _SERVER,
    "OperationTimedOut": _SERVER,
    "CannotVerifyCopySource": (RetryLater, "copy_source"),
}

S3: Mapping[str, Meaning] = {
    "NoSuchKey": _ABSENT,
    "NoSuchBucket": _MISSING,
    "AccessDenied": _CREDENTIALS,
    "AccountProblem": _CREDENTIALS,
    "AllAccessDisabled": _CREDENTIALS,
    "AuthorizationHeaderMalformed": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "NotSignedUp": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "UnauthorizedAccess": _CREDENTIALS,
    "RequestTimeTooSkewed": (Halt, "clock_skewed"),
    "ConditionalRequestConflict": _MOVED,
    "InvalidPart": _MOVED,
    "InvalidPartOrder": _MOVED,
    "InvalidRange": _MOVED,
    "NoSuchUpload": _MOVED,
    "PreconditionFailed": _MOVED,
    "InvalidObjectState": (Park, "archived"),
    "InvalidRetentionPeriod": _IMMUTABLE,
    "ObjectLocked": _IMMUTABLE,
    "InsufficientCapacity": _QUOTA,
    "InsufficientStorage": _QUOTA,
    "QuotaExceeded": _QUOTA,
    "EntityTooLarge": _TOO_LARGE,
    "MaxMessageLengthExceeded": _TOO_LARGE,
    "InvalidObjectName": _NAME,
    "InvalidURI": _NAME,
    "KeyTooLongError": _NAME,
    "MetadataTooLarge": _METADATA,
    "DirectoryObjectContainsData": _CLASH,
    "ExistingObjectIsDirectory": _CLASH,
    "ObjectParentIsFile": _CLASH,
    "NotImplemented": (Park, "not_supported"),
    "BadDigest": _DAMAGED,
    "IncompleteBody": _DAMAGED,
    "XAmzContentSHA256Mismatch": _DAMAGED,
    "InternalError": _SERVER,
    "OperationAborted": _SERVER,
    "RequestTimeout": _SERVER,
    "Busy": _BUSY,
    "RequestLimitExceeded": _BUSY,
    "ServiceUnavailable": _BUSY,
    "SlowDown": _BUSY,
    "Throttling": _BUSY,
    "ThrottlingException": _BUSY,
    "TooManyRequestsException": _BUSY,
}

_BY_STATUS: Mapping[int, Meaning] = {
    HTTPStatus.NOT_MODIFIED: _MOVED,
    HTTPStatus.UNAUTHORIZED: _CREDENTIALS,
    HTTPStatus.FORBIDDEN: _CREDENTIALS,
    HTTPStatus.REQUEST_TIMEOUT: _SERVER,
    HTTPStatus.PRECONDITION_FAILED: _MOVED,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: _MOVED,
    HTTPStatus.TOO_MANY_REQUESTS: _BUSY,
    HTTPStatus.NOT_IMPLEMENTED: (Park, "not_supported"),
    HTTPStatus.SERVICE_UNAVAILABLE: _BUSY,
    HTTPStatus.INSUFFICIENT_STORAGE: _QUOTA,
}

_TABLES: Mapping[Side, Mapping[str, Meaning]] = {Side.BLOB: AZURE, Side.VAST: S3}
_SERVICES = {Side.BLOB: "Azure Blob", Side.VAST: "VAST S3"}
_HINTS = {
    "container_missing": "Check the container or bucket name and that it still exists.",
    "credentials_refused": "Check the credentials and the rights of the service's identity.",
    "clock_skewed": "Set this machine's clock (NTP); requests are signed with the time.",
}
_CODE = re.compile(rb"<Code>([A-Za-z0-9_.]{1,80})</Code>")
_DAMAGE_WORDS = re.compile(rb"contentMD5|mismatches the content-length")
_LOCK_WORDS = re.compile(rb"object.?lock|retention|legal.?hold|worm", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no success. ``code`` is empty where the answer had none (HEAD on S3)."""

    status: int
    code: str
    retry_after_seconds: float | None = None


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    """Read an answer that is no success: the code from the header (Azure) or the XML body."""
    found = _CODE.search(body)
    code = headers.get("x-ms-error-code") or (found[1].decode() if found else "")
    if code == "AccessDenied" and _LOCK_WORDS.search(body):
        code = "ObjectLocked"
    if code == "InvalidOperation" and _DAMAGE_WORDS.search(body):
        code = "Md5Mismatch"  # as the emulator words it
    return Refusal(status, code, retry_after_seconds(headers.get("Retry-After")))


def meaning(side: Side, status: int, code: str) -> Meaning:
    """Error class and reason. What no table names is safe: 5xx may be tried again, anything else is parked as refused."""
    found = _TABLES[side].get(code) or _BY_STATUS.get(status)
    if found is not None:
        return found
    return _SERVER if status >= HTTPStatus.INTERNAL_SERVER_ERROR else (Park, "refused")


def known(side: Side, code: str) -> bool:
    """Whether the tables name *code*."""
    return code in _TABLES[side]


def fault(side: Side, refused: Refusal, *, operation: str, key: str = "") -> FederationError:
    """The error to raise for *refused*. A 404 without a code is not decided here: see ``HttpStore``."""
    kind, reason = meaning(side, refused.status, refused.code)
    text = f"{_SERVICES[side]} answered {refused.status} {refused.code or '(no code)'} to {operation}."
    hint = _HINTS.get(reason)
    text = f"{text} {hint}" if hint else text
    if kind is RetryLater:
        return RetryLater(text, reason=reason, key=key, side=side, after_seconds=refused.retry_after_seconds)
    return kind(text, reason=reason, key=key, side=side)


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or an HTTP date; None when there is none to understand."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
