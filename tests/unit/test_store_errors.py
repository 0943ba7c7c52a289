"""What the services' refusals mean: the tables, row by row, and what no table names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from azure.storage.blob import StorageErrorCode

from federation.backoff import LONGEST_BACKOFF_SECONDS
from federation.errors import FederationError, Halt, NotPresent, Park, Reobserve, RetryLater
from federation.model import Side
from federation.stores import codes, faults
from tests.unit.store_server import ABSURD_DATES

ROWS = [
    (Side.BLOB, 404, "BlobNotFound", NotPresent, "not_present"),
    (Side.BLOB, 404, "ContainerNotFound", Halt, "container_missing"),
    (Side.BLOB, 409, "ContainerBeingDeleted", Halt, "container_missing"),
    (Side.BLOB, 403, "AuthenticationFailed", Halt, "credentials_refused"),
    (Side.BLOB, 403, "AuthorizationPermissionMismatch", Halt, "credentials_refused"),
    (Side.BLOB, 401, "InvalidAuthenticationInfo", Halt, "credentials_refused"),
    (Side.BLOB, 412, "ConditionNotMet", Reobserve, "precondition"),
    (Side.BLOB, 409, "BlobAlreadyExists", Reobserve, "precondition"),
    (Side.BLOB, 409, "BlobArchived", Park, "archived"),
    (Side.BLOB, 409, "BlobBeingRehydrated", Park, "rehydrating"),
    (Side.BLOB, 412, "LeaseIdMissing", Park, "leased"),
    (Side.BLOB, 409, "BlobImmutableDueToPolicy", Park, "immutable"),
    (Side.BLOB, 409, "SnapshotsPresent", Park, "snapshots_present"),
    (Side.BLOB, 503, "ServerBusy", RetryLater, "throttled"),
    (Side.BLOB, 500, "OperationTimedOut", RetryLater, "server_error"),
    (Side.BLOB, 400, "Md5Mismatch", RetryLater, "checksum_mismatch"),
    (Side.BLOB, 400, "InvalidUri", Park, "name_refused"),
    (Side.BLOB, 409, "BlockCountExceedsLimit", Park, "foreign_blocks"),
    (Side.VAST, 404, "NoSuchKey", NotPresent, "not_present"),
    (Side.VAST, 404, "NoSuchBucket", Halt, "container_missing"),
    (Side.VAST, 403, "SignatureDoesNotMatch", Halt, "credentials_refused"),
    (Side.VAST, 403, "RequestTimeTooSkewed", Halt, "clock_skewed"),
    (Side.VAST, 412, "PreconditionFailed", Reobserve, "precondition"),
    (Side.VAST, 409, "ConditionalRequestConflict", Reobserve, "precondition"),
    (Side.VAST, 404, "NoSuchUpload", Reobserve, "precondition"),
    (Side.VAST, 503, "SlowDown", RetryLater, "throttled"),
    (Side.VAST, 400, "RequestTimeout", RetryLater, "server_error"),
    (Side.VAST, 507, "", Park, "quota_full"),
    (Side.VAST, 403, "QuotaExceeded", Park, "quota_full"),
    (Side.VAST, 403, "InvalidObjectState", Park, "archived"),
    (Side.VAST, 403, "", Halt, "credentials_refused"),
    (Side.VAST, 416, "", Reobserve, "precondition"),
    (Side.VAST, 304, "", Reobserve, "precondition"),
    (Side.VAST, 400, "XMinioParentIsObject", Park, "name_clash"),
    (Side.VAST, 409, "XMinioObjectExistsAsDirectory", Park, "name_clash"),
    (Side.VAST, 409, "ExistingObjectIsFile", Park, "name_clash"),
    (Side.VAST, 400, "XMinioInvalidObjectName", Park, "name_refused"),
    (Side.VAST, 400, "XMinioInvalidResourceName", Park, "name_refused"),
    (Side.VAST, 400, "XMinioAdminBucketQuotaExceeded", Park, "quota_full"),
    (Side.VAST, 503, "XMinioServerNotInitialized", RetryLater, "server_error"),
    (Side.VAST, 400, "XAmzContentChecksumMismatch", RetryLater, "checksum_mismatch"),
    (Side.VAST, 429, "ErrTooManyRequest", RetryLater, "throttled"),
    (Side.VAST, 499, "ClientDisconnected", RetryLater, "server_error"),
    (Side.VAST, 400, "ExcessData", RetryLater, "checksum_mismatch"),
    (Side.VAST, 400, "MaxVersionsExceeded", Park, "quota_full"),
    (Side.VAST, 403, "UserSuspended", Halt, "credentials_refused"),
]


@pytest.mark.parametrize(("side", "status", "code", "kind", "reason"), ROWS)
def test_rows(side: Side, status: int, code: str, kind: type[FederationError], reason: str) -> None:
    """Each known refusal has the class by what the caller does about it, and a stable reason."""
    error = faults.fault(side, faults.Refusal(status, code), operation="GET", key="k")
    assert type(error) is kind
    assert (error.reason, error.key, error.side) == (reason, "k", side)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("status", [500, 502, 504, 520, 599])
def test_unknown_server_error_may_be_tried_again(side: Side, status: int) -> None:
    """A 5xx that no table names is RetryLater."""
    assert isinstance(faults.fault(side, faults.Refusal(status, "NeverHeardOf"), operation="PUT"), RetryLater)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("status", [302, 400, 402, 405, 409, 418])
def test_unknown_refusal_is_parked_with_its_code(side: Side, status: int) -> None:
    """Any other refusal that no table names parks the key and names the code."""
    error = faults.fault(side, faults.Refusal(status, "NeverHeardOf"), operation="PUT")
    assert isinstance(error, Park)
    assert error.reason == "refused"
    assert "NeverHeardOf" in str(error)
    assert str(status) in str(error)


def test_absence_has_exactly_two_codes() -> None:
    """Only "no such object" of each service may ever mean absent (rule 3)."""
    absent = {code for table in (codes.AZURE, codes.S3) for code, (kind, _) in table.items() if kind is NotPresent}
    assert absent == {"BlobNotFound", "NoSuchKey"}


def test_every_throttle_carries_retry_after() -> None:
    """Retry-After, in seconds or as a date, reaches the error of either side."""
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    for side, code in ((Side.VAST, "SlowDown"), (Side.BLOB, "ServerBusy")):
        for told, seconds in (("7", 7), (" 7 ", 7), (in_a_minute, 60)):
            refused = faults.refusal(503, {"Retry-After": told}, f"<Error><Code>{code}</Code></Error>".encode())
            error = faults.fault(side, refused, operation="PUT")
            assert isinstance(error, RetryLater)
            assert error.after_seconds == pytest.approx(seconds, abs=2)


@pytest.mark.parametrize(
    "told", [None, "", "0", "-5", "soon", "1.5", "Fri, 01 Jan 1990 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00", *ABSURD_DATES]
)
def test_a_retry_after_that_tells_no_time_to_come_leaves_it_to_back_off(told: str | None) -> None:
    """Nothing, nonsense, no time at all or one that is past: else a side that says 0 would be asked without end."""
    assert faults.retry_after_seconds(told) is None


@pytest.mark.parametrize("told", ["86400", "9" * 400, "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_a_retry_after_is_bounded(told: str) -> None:
    """A clock that is off, or a typing error, keeps no key for a day."""
    assert faults.retry_after_seconds(told) == LONGEST_BACKOFF_SECONDS


def test_code_comes_from_header_or_body_and_texts_hold_nothing_else() -> None:
    """The header wins over the body; what the service says in words, which may quote a signature, is dropped."""
    body = b"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>AKIASECRET</StringToSign></Error>"
    refused = faults.refusal(403, {}, body)
    assert refused.code == "SignatureDoesNotMatch"
    assert "AKIASECRET" not in str(faults.fault(Side.VAST, refused, operation="GET"))
    assert faults.refusal(404, {"x-ms-error-code": "BlobNotFound"}, b"").code == "BlobNotFound"


def test_a_locked_object_is_not_a_lost_credential() -> None:
    """AccessDenied that speaks of an object lock parks the object; any other halts the pair."""
    locked = faults.refusal(
        403, {}, b"<Error><Code>AccessDenied</Code><Message>object protected by object lock</Message></Error>"
    )
    assert isinstance(faults.fault(Side.VAST, locked, operation="DELETE"), Park)
    denied = faults.refusal(403, {}, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
    assert isinstance(faults.fault(Side.VAST, denied, operation="DELETE"), Halt)


@pytest.mark.parametrize(
    "rest",
    [
        "<Message>Access Denied</Message><BucketName>retention-logs</BucketName><Resource>/retention-logs/a</Resource>",
        "<Message>Access Denied.</Message><Key>wormhole.txt</Key><Resource>/b/wormhole.txt</Resource>",
        "<Message>Access Denied.</Message><Key>legal hold.txt</Key>",
        "<Message>User: arn:aws:iam::1:user/worm may not s3:ListBucket on &quot;arn:aws:s3:::immutable data&quot;</Message>",
        '<Message>not authorized on "immutable data"</Message>',
    ],
)
def test_a_name_that_speaks_of_locks_is_no_lock(rest: str) -> None:
    """The answer names bucket and object; a pair whose rights are gone halts whatever they are called."""
    denied = faults.refusal(403, {}, f"<Error><Code>AccessDenied</Code>{rest}</Error>".encode())
    assert denied.code == "AccessDenied"
    assert isinstance(faults.fault(Side.VAST, denied, operation="ListObjectsV2"), Halt)


def test_no_code_of_the_azure_sdk_falls_to_a_dangerous_class() -> None:
    """Every error code the SDK knows, named here or not, is mapped; none of the unnamed ones may mean absence."""
    for code in StorageErrorCode:
        kind, _ = faults.meaning(Side.BLOB, 409, code.value)
        named = faults.known(Side.BLOB, code.value)
        assert named or kind is Park, code
    for status in range(300, 600):
        kind, _ = faults.meaning(Side.BLOB, status, "")
        assert kind is not NotPresent


@pytest.mark.parametrize(
    "words", ["Provided contentMD5 doesn't match.", "The size of the request body 5 mismatches the content-length 9."]
)
def test_bytes_that_arrived_damaged_are_sent_again(words: str) -> None:
    """However the service words it: nothing was written, and nothing is wrong with the key."""
    body = f"<Error><Code>InvalidOperation</Code><Message>{words}</Message></Error>".encode()
    refused = faults.refusal(400, {"x-ms-error-code": "InvalidOperation"}, body)
    assert faults.meaning(Side.BLOB, refused.status, refused.code) == (RetryLater, "checksum_mismatch")


def test_another_region_is_named_as_what_is_wrong() -> None:
    """Garage is set to one of its own, and answers so to requests signed for us-east-1."""
    told = faults.fault(Side.VAST, faults.Refusal(400, "AuthorizationHeaderMalformed"), operation="ListObjectsV2")
    assert isinstance(told, Halt)
    assert "region" in str(told)


def test_a_signature_refused_on_one_object_is_no_lack_of_rights() -> None:
    """Where the same keys list the bucket, somebody changes the request on its way (s3proxy writes Content-Type anew)."""
    for code, reason in (("SignatureDoesNotMatch", "request_refused"), ("AccessDenied", "access_denied")):
        refused = faults.Refusal(403, code)
        halt = faults.fault(Side.VAST, refused, operation="PutObject", key="k")
        assert isinstance(halt, Halt)
        parked = faults.of_one_object(halt, refused, key="k")
        assert (parked.reason, parked.key, parked.side) == (reason, "k", Side.VAST)
        assert code in str(parked)
