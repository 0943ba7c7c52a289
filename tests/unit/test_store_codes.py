"""Every error that an SDK, a service's documentation or a server can name has a meaning, and every parking a way back."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import azure.core.exceptions
import azure.identity
import botocore.exceptions
import pytest
from azure.storage.blob import StorageErrorCode
from botocore.loaders import Loader

from federation.errors import FederationError, Halt, NotPresent, Park, RetryLater
from federation.model import Side
from federation.rules.parking import REASONS, parking
from federation.stores import codes, faults
from federation.stores.azure_auth import token_fault
from federation.stores.lane import network_fault
from federation.stores.vast_s3 import signing_fault
from federation.sync.outcome import NOT_THE_KEYS_FAULT
from tests.unit import parked_document

ROOT = Path(__file__).parents[2]
HALTS = {"credentials_refused", "container_missing", "clock_skewed"}
OF_OTHER_SERVICES = """
    MessageNotFound MessageTooLarge PopReceiptMismatch QueueAlreadyExists QueueBeingDeleted QueueDisabled QueueNotEmpty
    QueueNotFound CannotDeleteFileOrDirectory ClientCacheFlushDelay ContainerQuotaDowngradeNotAllowed DeletePending
    FileLockConflict FileShareProvisionedBandwidthDowngradeNotAllowed FileShareProvisionedBandwidthInvalid
    FileShareProvisionedIopsDowngradeNotAllowed FileShareProvisionedIopsInvalid FileShareProvisionedStorageInvalid
    InvalidFileOrDirectoryPathName ParentNotFound ReadOnlyAttribute ShareAlreadyExists ShareBeingDeleted ShareDisabled
    ShareNotFound SharingViolation ShareSnapshotInProgress ShareSnapshotCountExceeded ShareSnapshotNotFound
    ShareSnapshotOperationNotSupported ShareHasSnapshots TotalSharesProvisionedCapacityExceedsAccountLimit
    TotalSharesProvisionedIopsExceedsAccountLimit TotalSharesProvisionedBandwidthExceedsAccountLimit
    TotalSharesCountExceedsAccountLimit FilesystemNotFound FilesystemAlreadyExists FilesystemBeingDeleted
    RenameDestinationParentPathNotFound SourcePathNotFound InvalidRenameSourcePath InvalidSourceOrDestinationResourceType
    LeaseIsAlreadyBroken LeaseNameMismatch
    """
"""In the SDK's one enumeration, but of queues, file shares and the file system interface, which are not spoken here."""
AWS_S3 = """
    AccessControlListNotSupported AccessDenied AccessPointAlreadyOwnedByYou AccountProblem AllAccessDisabled
    AmbiguousGrantByEmailAddress AuthorizationHeaderMalformed AuthorizationQueryParametersError BadDigest BucketAlreadyExists
    BucketAlreadyOwnedByYou BucketHasAccessPointsAttached BucketNotEmpty ClientTokenConflict ConditionalRequestConflict
    ConnectionClosedByRequester CredentialsNotSupported CrossLocationLoggingProhibited DeviceNotActiveError EndpointNotFound
    EntityTooLarge EntityTooSmall ExpiredToken IllegalLocationConstraintException IllegalVersioningConfigurationException
    IncompleteBody IncorrectEndpoint IncorrectNumberOfFilesInPostRequest InlineDataTooLarge InternalError InvalidAccessKeyId
    InvalidAccessPoint InvalidAccessPointAliasError InvalidAddressingHeader InvalidArgument
    InvalidBucketAclWithObjectOwnership InvalidBucketName InvalidBucketOwnerAWSAccountID InvalidBucketState InvalidDigest
    InvalidEncryptionAlgorithmError InvalidHostHeader InvalidHttpMethod InvalidLocationConstraint InvalidObjectState
    InvalidPart InvalidPartOrder InvalidPayer InvalidPolicyDocument InvalidRange InvalidRegion InvalidRequest InvalidSecurity
    InvalidSessionException InvalidSignature InvalidSOAPRequest InvalidStorageClass InvalidTag InvalidTargetBucketForLogging
    InvalidToken InvalidURI KeyTooLongError KMS.DisabledException KMS.InvalidKeyUsageException KMS.KMSInvalidStateException
    KMS.NotFoundException MalformedACLError MalformedPolicy MalformedPOSTRequest MalformedXML MaxMessageLengthExceeded
    MaxPostPreDataLengthExceededError MetadataTooLarge MethodNotAllowed MissingAttachment MissingAuthenticationToken
    MissingContentLength MissingRequestBodyError MissingSecurityElement MissingSecurityHeader NoLoggingStatusForKey
    NoSuchAccessPoint NoSuchAsyncRequest NoSuchBucket NoSuchBucketPolicy NoSuchCORSConfiguration NoSuchKey
    NoSuchLifecycleConfiguration NoSuchMultiRegionAccessPoint NoSuchObjectLockConfiguration NoSuchResource NoSuchTagSet
    NoSuchUpload NoSuchVersion NoSuchWebsiteConfiguration NotDeviceOwnerError NotImplemented NotModified
    NoTransformationDefined NotSignedUp ObjectLockConfigurationNotFoundError OperationAborted OwnershipControlsNotFoundError
    PermanentRedirect PermanentRedirectControlError PreconditionFailed Redirect ReplicationConfigurationNotFoundError
    RequestHeaderSectionTooLarge RequestIsNotMultiPartContent RequestTimeout RequestTimeTooSkewed RequestTorrentOfBucketError
    ResponseInterrupted RestoreAlreadyInProgress ServerSideEncryptionConfigurationNotFoundError ServiceUnavailable
    SignatureDoesNotMatch SlowDown TagPolicyException TemporaryRedirect TokenCodeInvalidError TokenRefreshRequired
    TooManyAccessPoints TooManyBuckets TooManyMultiRegionAccessPointregionsError TooManyMultiRegionAccessPoints TooManyTags
    UnauthorizedAccessError UnexpectedContent UnexpectedIPError UnresolvableGrantByEmailAddress UnsupportedArgument
    UnsupportedSignature UserKeyMustBeSpecified
    """
"""AWS's list of error codes of S3 over REST, with those of tagging and replication (API reference, "Error responses")."""
OF_OTHER_OPERATIONS = """
    AccessPointAlreadyOwnedByYou AmbiguousGrantByEmailAddress BucketHasAccessPointsAttached BucketNotEmpty
    CrossLocationLoggingProhibited DeviceNotActiveError IllegalVersioningConfigurationException
    IncorrectNumberOfFilesInPostRequest InvalidBucketAclWithObjectOwnership InvalidBucketOwnerAWSAccountID
    InvalidPolicyDocument InvalidSOAPRequest InvalidTargetBucketForLogging MalformedPOSTRequest MalformedPolicy
    MaxPostPreDataLengthExceededError MissingAttachment NoLoggingStatusForKey NoSuchAsyncRequest NoSuchBucketPolicy
    NoSuchCORSConfiguration NoSuchLifecycleConfiguration NoSuchMultiRegionAccessPoint NoSuchResource
    NoSuchWebsiteConfiguration NoTransformationDefined NotDeviceOwnerError OwnershipControlsNotFoundError
    PermanentRedirectControlError ReplicationConfigurationNotFoundError RequestIsNotMultiPartContent
    RequestTorrentOfBucketError TokenCodeInvalidError TooManyAccessPoints TooManyBuckets
    TooManyMultiRegionAccessPointregionsError TooManyMultiRegionAccessPoints UnresolvableGrantByEmailAddress
    """
"""Of those: of settings of a bucket, access points, MFA, POST forms, SOAP and Object Lambda, none of which is asked for here."""
S3_OPERATIONS = """
    PutObject GetObject HeadObject DeleteObject CopyObject CreateMultipartUpload UploadPart UploadPartCopy CompleteMultipartUpload
    AbortMultipartUpload ListMultipartUploads ListParts ListObjectsV2 ListObjectVersions GetBucketVersioning GetObjectTagging
    PutObjectTagging DeleteObjectTagging
    """
DOCUMENTED = {
    Side.BLOB: """BlobArchived BlobBeingRehydrated BlobImmutableDueToPolicy BlobImmutableDueToLegalHold
        ContainerImmutabilityPolicyLocked ContainerHasLegalHold SnapshotsPresent LeaseIdMissing ConditionNotMet BlobAlreadyExists
        InternalError OperationTimedOut ServerBusy CannotVerifyCopySource BlobUsesCustomerSpecifiedEncryption
        BlobOperationNotSupported ImmutabilityPolicyDeleteOnLockedPolicy IncrementalCopyOfEralierVersionSnapshotNotAllowed
        DirectoryIsNotEmpty OperationNotSupportedOnDirectory FeatureNotYetSupportedForHierarchicalNamespaceAccounts""",
    Side.VAST: "SlowDown InsufficientCapacity PreconditionFailed NoSuchKey NoSuchBucket",
}
"""Named in facts/azure.md 3.2, 3.6, 3.7 and facts/vast.md 3; the last two lines of Azure's by its list of Blob error codes and by
accounts with a hierarchical namespace (az storage, blobfuse and azcopy print them), and not by the SDK."""
BESIDE_AWS = {
    "MinIO": """XMinioStorageFull XMinioParentIsObject XMinioObjectExistsAsDirectory XMinioInvalidObjectName
        XMinioInvalidResourceName XMinioAdminBucketQuotaExceeded XMinioServerNotInitialized XMinioIAMNotInitialized
        XMinioBucketMetadataNotInitialized XMinioBackendDown XMinioRequestBodyParse XMinioInsecureClientRequest InvalidTokenId
        MalformedDate SlowDownRead SlowDownWrite XAmzContentChecksumMismatch XAmzContentSHA256Mismatch""",
    "SeaweedFS": "ErrTooManyRequest ErrRequestBytesExceed ExistingObjectIsDirectory ExistingObjectIsFile MalformedDate",
    "versitygw": "ExistingObjectIsDirectory ObjectParentIsFile DirectoryObjectContainsData QuotaExceeded",
    "Ceph RGW": "UserSuspended InvalidLocationConstraint QuotaExceeded InvalidObjectName",
}
"""What these add to AWS's list for the operations that we use, as their own tables of errors name it."""


@pytest.mark.parametrize("code", [one.value for one in StorageErrorCode])
def test_every_code_of_the_azure_sdk_is_mapped(code: str) -> None:
    """A code that the SDK knows is in our table, or is of another service and listed as such; never both."""
    assert (code in codes.AZURE) != (code in OF_OTHER_SERVICES.split())


@pytest.mark.parametrize("code", AWS_S3.split())
def test_every_code_of_aws_s3_is_mapped(code: str) -> None:
    """A code that AWS documents is in our table, or is of an operation that we never ask for and listed as such; never both."""
    assert (code in codes.S3) != (code in OF_OTHER_OPERATIONS.split())


def test_every_error_of_the_s3_model_is_mapped() -> None:
    """What botocore's model of S3 says that the operations we use may answer is in our table."""
    model = Loader().load_service_model("s3", "service-2")
    told = {error["shape"] for name in S3_OPERATIONS.split() for error in model["operations"][name].get("errors", ())}
    assert len(told) >= 5
    assert told <= set(codes.S3)


@pytest.mark.parametrize("side", Side)
def test_every_documented_code_is_mapped(side: Side) -> None:
    """The codes that the facts name."""
    assert all(faults.known(side, code) for code in DOCUMENTED[side].split())


@pytest.mark.parametrize("server", BESIDE_AWS)
def test_every_code_of_other_s3_servers_is_mapped(server: str) -> None:
    """A clash of names on MinIO says so, and is not parked as something that nobody knows."""
    assert [code for code in BESIDE_AWS[server].split() if not faults.known(Side.VAST, code)] == []


def _classes(module: object) -> list[type[BaseException]]:
    found = [one for one in vars(module).values() if inspect.isclass(one) and issubclass(one, BaseException)]
    assert found
    return found


@pytest.mark.parametrize(
    ("module", "translate"),
    [
        (aiohttp, lambda error: network_fault(Side.BLOB, error)),
        (azure.core.exceptions, token_fault),
        (azure.identity, token_fault),
        (botocore.exceptions, signing_fault),
    ],
    ids=["aiohttp", "azure-core", "azure-identity", "botocore"],
)
def test_every_exception_class_of_a_library_is_translated(module: object, translate: object) -> None:
    """Each class becomes one of ours with a reason, without the library's own text, which may hold a URL or a secret."""
    assert callable(translate)
    for kind in _classes(module):
        error = kind.__new__(kind)
        vars(error).update(_conn_key=SimpleNamespace(host="host", port=1), _os_error=OSError(), _certificate_error=OSError())
        error.args = ("https://user:hunter2@host/?sig=hunter2",)
        ours = translate(error)
        assert isinstance(ours, RetryLater | Park | Halt), kind
        assert ours.reason in {*REASONS, *HALTS, *NOT_THE_KEYS_FAULT}, kind
        assert "hunter2" not in str(ours), kind


def _meanings() -> list[tuple[type[FederationError], str]]:
    return [*codes.AZURE.values(), *codes.S3.values(), *codes.BY_STATUS.values(), faults.meaning(Side.BLOB, 499, "")]


def test_every_meaning_has_words() -> None:
    """A parked code has its way back, a halt its hint, and a code that is retried has words for when it came too often."""
    for kind, reason in _meanings():
        if kind is Halt:
            assert reason in HALTS
        elif kind is Park or (kind is RetryLater and reason not in NOT_THE_KEYS_FAULT):
            assert reason in REASONS
    assert {kind for kind, _ in _meanings()} >= {Halt, Park, RetryLater, NotPresent}


def test_every_parking_in_the_code_has_words() -> None:
    """Whatever the engine parks or retries by name has its way back; an unknown name gets a general word."""
    raised = set()
    files = [
        ROOT / "federation/keys.py",
        *(file for room in ("sync", "stores") for file in (ROOT / "federation" / room).rglob("*.py")),
    ]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Park", "RetryLater"):
                raised |= {
                    one.value.value for one in node.keywords if one.arg == "reason" and isinstance(one.value, ast.Constant)
                }
    assert len(raised) >= 10
    assert raised - NOT_THE_KEYS_FAULT - {"lease_lost"} <= set(REASONS)
    assert parking("never heard of").way_back


def test_the_document_is_what_the_code_says() -> None:
    """docs/parked.md holds the table as `make docs` prints it: reason, meaning, way back, and the services' codes behind it."""
    text = parked_document.FILE.read_text(encoding="utf-8")
    assert parked_document.rendered(text) == text
    assert all(f"| `{reason}` |" in text for reason in REASONS)
