"""The services' error codes and what each means to the caller: one table for each service. Pure data.

Codes: facts/azure.md 3.2, 3.6 and 3.7, ``azure.storage.blob.StorageErrorCode``, Azure's own list of Blob error codes;
facts/vast.md 3, the S3 model of botocore, the S3 error list, and what MinIO, SeaweedFS, versitygw, Garage and Ceph RGW add to
it. tests/unit/test_store_codes.py fails on one that an SDK knows and no table names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus

from federation.errors import FederationError, Halt, NotPresent, Park, Reobserve, RetryLater

Meaning = tuple[type[FederationError], str]
"""Error class and reason. What to do about the reason of a ``Park`` is in ``federation.rules.parking``."""

CREDENTIALS: Meaning = (Halt, "credentials_refused")
MISSING: Meaning = (Halt, "container_missing")
MOVED: Meaning = (Reobserve, "precondition")
BUSY: Meaning = (RetryLater, "throttled")
SERVER: Meaning = (RetryLater, "server_error")
DAMAGED: Meaning = (RetryLater, "checksum_mismatch")
ODD: Meaning = (RetryLater, "bad_answer")
ABSENT: Meaning = (NotPresent, "not_present")
IMMUTABLE: Meaning = (Park, "immutable")
LEGAL_HOLD: Meaning = (Park, "legal_hold")
WORM: Meaning = (Park, "worm")
LEASED: Meaning = (Park, "leased")
NAME: Meaning = (Park, "name_refused")
METADATA: Meaning = (Park, "metadata_refused")
TAGS: Meaning = (Park, "tags_refused")
UNTAGGED: Meaning = (Park, "no_tags")
"""As some servers answer to a look at the tags of an object that has none."""
TIER: Meaning = (Park, "tier_refused")
TOO_LARGE: Meaning = (Park, "too_large")
QUOTA: Meaning = (Park, "quota_full")
CLASH: Meaning = (Park, "name_clash")
OTHER_TYPE: Meaning = (Park, "not_a_block_blob")
CUSTOMER_KEY: Meaning = (Park, "customer_key")
ENCRYPTION: Meaning = (Park, "encryption_key")
COPY: Meaning = (Park, "copy_refused")
UNSUPPORTED: Meaning = (Park, "not_supported")
REQUEST: Meaning = (Park, "request_refused")
"""The service does not understand what we sent: our fault, or a service that differs."""


def _table(rows: Iterable[tuple[Meaning, str]]) -> Mapping[str, Meaning]:
    table: dict[str, Meaning] = {}
    for meaning, codes in rows:
        for code in codes.split():
            if code in table:
                raise AssertionError(f"{code} stands twice in the table")
            table[code] = meaning
    return table


AZURE: Mapping[str, Meaning] = _table(
    (
        (ABSENT, "BlobNotFound"),
        (MISSING, "ContainerNotFound ContainerBeingDeleted ContainerDisabled ContainerAlreadyExists"),
        (
            CREDENTIALS,
            """AccountIsDisabled AccountRequiresHttps AuthenticationFailed AuthorizationFailure
            AuthorizationPermissionMismatch AuthorizationProtocolMismatch AuthorizationResourceTypeMismatch
            AuthorizationServiceMismatch AuthorizationSourceIPMismatch InsufficientAccountPermissions
            InvalidAuthenticationInfo KeyBasedAuthenticationNotPermitted NoAuthenticationInformation
            PublicAccessNotPermitted UnauthorizedBlobOverwrite""",
        ),
        (
            MOVED,
            """ConditionNotMet TargetConditionNotMet SourceConditionNotMet BlobAlreadyExists ResourceAlreadyExists
            BlobOverwritten InvalidBlockList InvalidRange AppendPositionConditionNotMet
            MaxBlobSizeConditionNotMet SequenceNumberConditionNotMet""",
        ),
        ((Park, "archived"), "BlobArchived"),
        ((Park, "rehydrating"), "BlobBeingRehydrated"),
        (IMMUTABLE, "BlobImmutableDueToPolicy ContainerImmutabilityPolicyLocked ImmutabilityPolicyDeleteOnLockedPolicy"),
        (LEGAL_HOLD, "BlobImmutableDueToLegalHold ContainerHasLegalHold"),
        (
            LEASED,
            """LeaseIdMissing LeaseIdMismatchWithBlobOperation LeaseIdMismatchWithContainerOperation LeaseLost
            LeaseAlreadyPresent LeaseAlreadyBroken LeaseIdMismatchWithLeaseOperation LeaseIsBreakingAndCannotBeAcquired
            LeaseIsBreakingAndCannotBeChanged LeaseIsBrokenAndCannotBeRenewed LeaseNotPresentWithLeaseOperation
            LeaseNotPresentWithBlobOperation LeaseNotPresentWithContainerOperation InfiniteLeaseDurationRequired""",
        ),
        ((Park, "snapshots_present"), "SnapshotsPresent SnapshotCountExceeded"),
        (
            OTHER_TYPE,
            """InvalidBlobType InvalidPageRange InvalidVersionForPageBlobOperation OperationNotAllowedOnIncrementalCopyBlob
            BlobOperationNotSupported
            IncrementalCopyBlobMismatch IncrementalCopyOfEarlierSnapshotNotAllowed IncrementalCopySourceMustBeSnapshot
            IncrementalCopyOfEarlierVersionSnapshotNotAllowed IncrementalCopyOfEralierVersionSnapshotNotAllowed
            SequenceNumberIncrementTooLarge PreviousSnapshotNotFound
            PreviousSnapshotCannotBeNewer PreviousSnapshotOperationNotSupported FeatureVersionMismatch""",
        ),
        (
            CUSTOMER_KEY,
            """BlobUsesCustomerSpecifiedEncryption BlobDoesNotUseCustomerSpecifiedEncryption
            BlobCustomerSpecifiedEncryptionMismatch""",
        ),
        (
            ENCRYPTION,
            """KeyVaultEncryptionKeyNotFound KeyVaultAccessTokenCannotBeAcquired KeyVaultVaultNotFound
            EncryptionScopeNotFound EncryptionScopeDisabled DisabledEncryptionScope
            RequestForbiddenByContainerEncryptionPolicy""",
        ),
        (
            TIER,
            """BlobAccessTierNotSupportedForAccountType BlobTierInadequateForContentLength BlobNotArchived
            CannotChangeToLowerTier ContentLengthLargerThanTierLimit InvalidBlobTier""",
        ),
        (TOO_LARGE, "BlockListTooLong RequestBodyTooLarge"),
        # Of blocks that nobody committed, 100,000 at most: what is planned never passes the limit of those in a blob.
        ((Park, "foreign_blocks"), "BlockCountExceedsLimit"),
        (QUOTA, "AccountQuotaExceeded InsufficientStorage"),
        (NAME, "InvalidUri InvalidResourceName OutOfRangeInput RequestUrlFailedToParse"),
        (METADATA, "EmptyMetadataKey InvalidMetadata MetadataTooLarge"),
        (TAGS, "InvalidTag TagsTooLarge"),
        (
            CLASH,
            """ResourceTypeMismatch PathAlreadyExists PathConflict DirectoryNotEmpty DirectoryIsNotEmpty InvalidDestinationPath
            OperationNotSupportedOnDirectory""",
        ),
        (
            COPY,
            """CopyAcrossAccountsNotSupported CopyIdMismatch NoPendingCopyOperation InvalidSourceBlobType
            InvalidSourceBlobUrl InvalidSourceUri""",
        ),
        (
            REQUEST,
            """AccountAlreadyExists ConditionHeadersNotSupported InvalidHeaderValue InvalidHttpVerb InvalidInput InvalidMd5
            InvalidQueryParameterValue InvalidXmlDocument InvalidXmlNodeValue MissingContentLengthHeader
            MissingRequiredQueryParameter MissingRequiredHeader MissingRequiredXmlNode
            MultipleConditionHeadersNotSupported OutOfRangeQueryParameterValue UnsupportedHeader UnsupportedXmlNode
            UnsupportedQueryParameter UnsupportedHttpVerb InvalidBlockId InvalidOperation OperationNotAllowedOnRootBlob
            ContentLengthMustBeZero
            InvalidFlushPosition InvalidPropertyName UnsupportedRestVersion""",
        ),
        (
            UNSUPPORTED,
            """APINotImplemented FeatureNotSupportedForAccount
            FeatureNotYetSupportedForHierarchicalNamespaceAccounts""",
        ),
        (DAMAGED, "Md5Mismatch Crc64Mismatch"),
        ((RetryLater, "foreign_blocks"), "InvalidBlobOrBlock"),
        ((RetryLater, "copy_pending"), "PendingCopyOperation"),
        ((RetryLater, "copy_source"), "CannotVerifyCopySource"),
        ((RetryLater, "bad_listing"), "InvalidMarker"),
        (ODD, "ResourceNotFound PathNotFound"),
        (BUSY, "AccountBeingCreated ServerBusy SystemInUse SnapshotOperationRateExceeded TooManyRequests"),
        (SERVER, "InternalError OperationTimedOut SourcePathIsBeingDeleted DestinationPathIsBeingDeleted"),
    )
)

S3: Mapping[str, Meaning] = _table(
    (
        (ABSENT, "NoSuchKey"),
        (
            MISSING,
            """NoSuchBucket InvalidBucketName InvalidBucketState BucketAlreadyExists BucketAlreadyOwnedByYou
            PermanentRedirect Redirect IncorrectEndpoint EndpointNotFound NoSuchAccessPoint
            IllegalLocationConstraintException InvalidAccessPoint InvalidAccessPointAliasError InvalidRegion
            InvalidLocationConstraint""",
        ),
        (
            CREDENTIALS,
            """AccessDenied AccessForbidden AccountProblem AllAccessDisabled AuthorizationHeaderMalformed
            AuthorizationQueryParametersError CredentialsNotSupported ExpiredToken InvalidAccessKeyId InvalidPayer
            InvalidSecurity InvalidSessionException InvalidSignature InvalidToken MissingAuthenticationToken
            MissingSecurityElement MissingSecurityHeader NotSignedUp SignatureDoesNotMatch TokenRefreshRequired
            UnauthorizedAccess UnauthorizedAccessError UnexpectedIPError UnsupportedSignature InvalidTokenId UserSuspended""",
        ),
        ((Halt, "clock_skewed"), "RequestTimeTooSkewed RequestExpired"),
        (
            MOVED,
            """ConditionalRequestConflict InvalidPart InvalidPartOrder InvalidRange NoSuchUpload NoSuchVersion NotModified
            PreconditionFailed ClientTokenConflict IdempotencyParameterMismatch""",
        ),
        ((Park, "archived"), "InvalidObjectState ObjectNotInActiveTierError"),
        ((Park, "rehydrating"), "RestoreAlreadyInProgress ObjectAlreadyInActiveTierError"),
        (WORM, "InvalidRetentionPeriod ObjectLocked ObjectLockConfigurationNotFoundError NoSuchObjectLockConfiguration"),
        (LEGAL_HOLD, "ObjectOnLegalHold"),
        (
            QUOTA,
            """InsufficientCapacity InsufficientStorage MaxVersionsExceeded QuotaExceeded XMinioStorageFull
            XMinioAdminBucketQuotaExceeded""",
        ),
        (TOO_LARGE, "EntityTooLarge InlineDataTooLarge MaxMessageLengthExceeded TooManyParts"),
        (
            NAME,
            "InvalidObjectName InvalidURI KeyTooLongError InvalidPrefix XMinioInvalidObjectName XMinioInvalidResourceName",
        ),
        (METADATA, "MetadataTooLarge RequestHeaderSectionTooLarge"),
        (TAGS, "InvalidTag InvalidTagError TagPolicyException TooManyTags"),
        (UNTAGGED, "NoSuchTagSet"),
        (TIER, "InvalidStorageClass"),
        (
            CLASH,
            """DirectoryObjectContainsData ErrDirectoryNotEmpty ExistingObjectIsDirectory ExistingObjectIsFile
            ObjectParentIsFile XMinioObjectExistsAsDirectory XMinioParentIsObject""",
        ),
        (CUSTOMER_KEY, "EncryptionTypeMismatch UserKeyMustBeSpecified ServerSideEncryptionConfigurationNotFoundError"),
        (
            ENCRYPTION,
            """InvalidEncryptionAlgorithmError KMS.DisabledException KMS.InvalidKeyUsageException
            KMS.KMSInvalidStateException KMS.NotFoundException""",
        ),
        (UNSUPPORTED, "NotImplemented MethodNotAllowed VersioningNotConfigured UnsupportedArgument"),
        (
            REQUEST,
            """AccessControlListNotSupported BadRequest EntityTooSmall InvalidAddressingHeader InvalidArgument
            InvalidChunkSizeError InvalidDigest InvalidHostHeader InvalidHttpMethod InvalidPartNumber
            InvalidHeaderValue InvalidRequestParameter MissingContentMD5 EmptyRequestBody UnsupportedRangeHeader
            InvalidRedirectLocation InvalidRequest InvalidWriteOffset MalformedACLError MalformedTrailerError MalformedXML
            MissingContentLength MissingRequestBodyError UnexpectedContent UnsupportedMediaType MalformedDate
            XMinioInsecureClientRequest XMinioRequestBodyParse""",
        ),
        (DAMAGED, "BadDigest ExcessData IncompleteBody XAmzContentChecksumMismatch XAmzContentSHA256Mismatch"),
        ((RetryLater, "bad_listing"), "InvalidContinuationToken"),
        (
            SERVER,
            """ClientDisconnected InternalError OperationAborted RequestTimeout TemporaryRedirect ConnectionClosedByRequester
            ResponseInterrupted
            XMinioBackendDown XMinioBucketMetadataNotInitialized XMinioIAMNotInitialized XMinioServerNotInitialized""",
        ),
        (
            BUSY,
            """Busy ServerBusy BandwidthLimitExceeded RequestLimitExceeded ServiceUnavailable SlowDown SlowDownRead SlowDownWrite
            Throttling ThrottlingException ThrottledException TooManyRequests TooManyRequestsException ErrTooManyRequest
            ErrRequestBytesExceed""",
        ),
    )
)

BY_STATUS: Mapping[int, Meaning] = {
    HTTPStatus.NOT_MODIFIED: MOVED,
    HTTPStatus.UNAUTHORIZED: CREDENTIALS,
    HTTPStatus.FORBIDDEN: CREDENTIALS,
    HTTPStatus.REQUEST_TIMEOUT: SERVER,
    HTTPStatus.PRECONDITION_FAILED: MOVED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: TOO_LARGE,
    HTTPStatus.REQUEST_URI_TOO_LONG: NAME,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: MOVED,
    HTTPStatus.TOO_MANY_REQUESTS: BUSY,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: METADATA,
    HTTPStatus.NOT_IMPLEMENTED: UNSUPPORTED,
    HTTPStatus.SERVICE_UNAVAILABLE: BUSY,
    HTTPStatus.INSUFFICIENT_STORAGE: QUOTA,
}
"""Where the answer has no code, or one that no table names."""
