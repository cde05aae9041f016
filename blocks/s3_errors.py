"""What the errors of S3 and of its client mean for a store; one pure function, one table."""

import errno
import re
from dataclasses import dataclass
from typing import Any

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from blocks.disk import LASTING
from blocks.errors import StoreConfigError, StoreError, StoreUnavailable

# Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_DENIED = "Access to bucket {bucket!r} at {endpoint} is denied ({code}); give these credentials the right to {operation}."
_KEYS = "The credentials are refused at {endpoint} ({code}); check the access key, its secret and the session token."
_EXPIRED = "The session token has expired ({code}); renew the credentials."
_REGION = "Bucket {bucket!r} is not in region {region!r} ({code}); set region, or AWS_DEFAULT_REGION, to the bucket's."
_CLOCK = "The clock of this machine is wrong, says {endpoint} ({code}); set it."
_KMS = "The encryption key cannot be used ({code}); check kms_key_id and the right to use the key."
_FULL = "The store at {endpoint} is full ({code}); free some space or choose another store."
_LACKING = "The server at {endpoint} does not know {operation} ({code}); use one that speaks the whole S3 protocol."
_CONFIG = {
    "NoSuchBucket": "Bucket {bucket!r} does not exist at {endpoint}; create it or name another.",
    "InvalidBucketName": "Bucket name {bucket!r} is refused at {endpoint}; name one that exists.",
    **dict.fromkeys(("AccessDenied", "AccessDeniedException", "AllAccessDisabled", "AccountProblem", "Forbidden"), _DENIED),
    **dict.fromkeys(
        (
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "InvalidToken",
            "InvalidSecurity",
            "InvalidClientTokenId",
            "UnrecognizedClientException",
            "NotSignedUp",
            "CredentialsNotSupported",
        ),
        _KEYS,
    ),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), _EXPIRED),
    **dict.fromkeys(("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _REGION),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestExpired"), _CLOCK),
    **dict.fromkeys(("KMS.NotFoundException", "KMS.DisabledException", "KMS.KMSInvalidStateException"), _KMS),
    **dict.fromkeys(("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "ServiceQuotaExceededException"), _FULL),
    **dict.fromkeys(("NotImplemented", "MethodNotAllowed"), _LACKING),
}
# 4xx that can pass: slow-downs, races that the server lost, and bytes that changed on their way.
_PASSING = {
    *("SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException"),
    *("TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded", "RequestTimeout", "RequestTimeoutException"),
    *("OperationAborted", "ConditionalRequestConflict", "NoSuchUpload", "InvalidPart", "TransactionInProgressException"),
    *("BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody", "InvalidDigest"),
}
# The answer to HEAD has no body, so no code: botocore gives the status instead.
_STATUS = {
    301: "PermanentRedirect",
    307: "PermanentRedirect",
    403: "AccessDenied",
    501: "NotImplemented",
    507: "InsufficientStorage",
}
_CLIENT: dict[type[Exception], str] = {
    boto.NoCredentialsError: "There are no credentials for {endpoint}; set AWS_PROFILE, AWS_ACCESS_KEY_ID or a block.",
    boto.PartialCredentialsError: "The credentials for {endpoint} are incomplete; set both the access key and its secret.",
    boto.CredentialRetrievalError: "The credentials for {endpoint} cannot be got; log in again or check the profile.",
    boto.SSOError: "The single sign-on has ended; log in again with 'aws sso login'.",
    boto.TokenRetrievalError: "The single sign-on has ended; log in again with 'aws sso login'.",
    boto.ProfileNotFound: "The profile that AWS_PROFILE names does not exist; set AWS_PROFILE to one in ~/.aws/config.",
    boto.ConfigNotFound: "The AWS configuration file is not there; check AWS_CONFIG_FILE.",
    boto.ConfigParseError: "The AWS configuration file cannot be read; mend it or set AWS_CONFIG_FILE.",
    boto.NoRegionError: "No region is set; set region, or AWS_DEFAULT_REGION.",
    boto.InvalidRegionError: "Region {region!r} is no region; set region, or AWS_DEFAULT_REGION.",
}
_ACCESS_KEY = re.compile(r"\b[A-Z0-9]{20}\b")


@dataclass(frozen=True)
class Place:
    """What messages name: bucket, endpoint without credentials, region."""

    bucket: str
    endpoint: str
    region: str = ""


def is_absent(error: Exception) -> bool:
    """Tell whether `error` means that an object is not there; a missing bucket is another thing, where the answer can tell."""
    return isinstance(error, ClientError) and _code(error) in ("NoSuchKey", "NoSuchUpload", "404", "NotFound")


def is_refused_condition(error: Exception) -> bool:
    """Tell whether `error` means that a conditional write found another version: 412, or 404 for one that is gone."""
    return is_absent(error) or (isinstance(error, ClientError) and _code(error) in ("PreconditionFailed", "412"))


def is_conflict(error: Exception) -> bool:
    """Tell whether `error` asks to send a conditional write again, since another one was under way."""
    return isinstance(error, ClientError) and _code(error) in ("ConditionalRequestConflict", "OperationAborted", "409")


def store_error(error: Exception, place: Place) -> StoreError:
    """Return the error of the store that `error` of the client means; its message holds no secret.

    Args:
        error: What boto3, botocore, s3transfer or the disk raised.
        place: Where it happened.
    """
    if isinstance(error, StoreError):
        return error
    if isinstance(error, ClientError):
        return _answer(error, place)
    if isinstance(error, OSError) and error.errno in LASTING:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space" if full else "check the folder"
        return StoreConfigError(f"Cannot write on this machine: {error.strerror}; {remedy}.")
    return _fault(error, place)


def _answer(error: ClientError, place: Place) -> StoreError:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = _code(error)
    if code.isdigit() or not code:
        status = int(code or status)
        code = _STATUS.get(status, str(status))
    names = {"bucket": place.bucket, "endpoint": place.endpoint, "region": place.region}
    if code in _CONFIG:
        return StoreConfigError(_CONFIG[code].format(**names, code=code, operation=error.operation_name))
    if code in _PASSING or status >= 500 or status == 429 or (not status and not code.isdigit()):
        return StoreUnavailable(f"The store at {place.endpoint} cannot {error.operation_name} now ({code}); try again.")
    told = _ACCESS_KEY.sub("…", " ".join(str(error.response.get("Error", {}).get("Message", "")).split()))[:200]
    return StoreConfigError(
        f"The store at {place.endpoint} refuses {error.operation_name} for bucket {place.bucket!r} "
        f"({code}{': ' if told else ''}{told}); check the store's settings."
    )


def _fault(error: Exception, place: Place) -> StoreError:
    for kind, message in _CLIENT.items():
        if isinstance(error, kind):
            return StoreConfigError(message.format(bucket=place.bucket, endpoint=place.endpoint, region=place.region))
    name = type(error).__name__
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StoreConfigError(f"The certificate of {place.endpoint} is not trusted; set AWS_CA_BUNDLE.")
    if isinstance(error, ValueError) and "endpoint" in str(error).lower():
        return StoreConfigError("The endpoint is not a URL; set AWS_ENDPOINT_URL, or the block's, to http(s)://host[:port].")
    if isinstance(error, HTTPClientError | boto.ConnectionError | boto.FlexibleChecksumError | boto.IncompleteReadError):
        return StoreUnavailable(f"The store at {place.endpoint} does not answer ({name}); check that it runs, then try again.")
    if isinstance(error, BotoCoreError) and not _is_parser_error(error):
        return StoreConfigError(f"The settings for {place.endpoint} cannot be used ({name}); check the store's settings.")
    return StoreUnavailable(f"The connection to {place.endpoint} failed ({name}); try again.")


def _is_parser_error(error: Any) -> bool:
    return type(error).__name__.endswith("ParserError")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
