"""Every foreign error becomes one of ours: those that can pass are retried, the others name a remedy; none shows a secret."""

import errno
from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import ProtocolError

from blocks.errors import ArtifactDamaged, StoreConfigError, StoreError, StoreUnavailable
from blocks.s3_errors import Place, is_absent, is_conflict, is_refused_condition, store_error

PLACE = Place("models", "https://s3.example.com", "eu-central-1")
KEY = "AKIAIOSFODNN7EXAMPLE"


def answered(code: str, status: int = 400, message: str = "told by the server", operation: str = "PutObject") -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, operation)


CONFIG = [
    (answered("NoSuchBucket", 404), "Bucket 'models' does not exist at https://s3.example.com; create it or name another."),
    (answered("InvalidBucketName"), "name one that exists"),
    (answered("AccessDenied", 403), "is denied (AccessDenied); give these credentials the right to PutObject."),
    (answered("403", 403, operation="HeadObject"), "is denied (AccessDenied); give these credentials the right to HeadObject."),
    (answered("", 403), "is denied"),
    (answered("PermanentRedirect", 301), "is not in region 'eu-central-1' (PermanentRedirect); set region"),
    (answered("301", 301), "is not in region"),
    (answered("AuthorizationHeaderMalformed"), "is not in region"),
    (answered("IllegalLocationConstraintException"), "is not in region"),
    (answered("InvalidAccessKeyId", 403), "credentials are refused"),
    (answered("SignatureDoesNotMatch", 403), "credentials are refused"),
    (answered("InvalidToken"), "credentials are refused"),
    (answered("ExpiredToken"), "has expired (ExpiredToken); renew"),
    (answered("RequestTimeTooSkewed", 403), "The clock of this machine is wrong"),
    (answered("KMS.NotFoundException"), "check kms_key_id"),
    (answered("QuotaExceeded", 403), "is full"),
    (answered("507", 507), "is full"),
    (answered("NotImplemented", 501), "does not know PutObject"),
    (answered("InvalidStorageClass"), "refuses PutObject for bucket 'models' (InvalidStorageClass: told by the server)"),
    (answered("400", 400), "refuses PutObject"),
    (boto.NoCredentialsError(), "There are no credentials"),
    (boto.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), "are incomplete; set both"),
    (boto.CredentialRetrievalError(provider="p", error_msg="e"), "cannot be got; log in"),
    (boto.UnauthorizedSSOTokenError(), "log in again"),
    (boto.ProfileNotFound(profile="none"), "set AWS_PROFILE"),
    (boto.ConfigParseError(path="x"), "AWS_CONFIG_FILE"),
    (boto.NoRegionError(), "set region"),
    (boto.InvalidRegionError(region_name="x y"), "is no region"),
    (boto.ParamValidationError(report="Invalid bucket"), "cannot be used (ParamValidationError)"),
    (ValueError("Invalid endpoint: ftp:x"), "is not a URL"),
    (boto.SSLError(endpoint_url="https://x", error="CERTIFICATE_VERIFY_FAILED"), "is not trusted; set AWS_CA_BUNDLE"),
    (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free some space."),
    (OSError(errno.EACCES, "Permission denied"), "check the folder"),
]
PASSING = [
    answered("InternalError", 500),
    answered("500", 500),
    answered("503", 503, operation="HeadObject"),
    answered("ServiceUnavailable", 503),
    answered("SlowDown", 503),
    answered("SlowDown", 429),
    answered("429", 429),
    answered("Throttling"),
    answered("TooManyRequestsException"),
    answered("RequestTimeout"),
    answered("BadDigest"),
    answered("XAmzContentSHA256Mismatch"),
    answered("IncompleteBody"),
    answered("NoSuchUpload", 404),
    answered("InvalidPart"),
    answered("ConditionalRequestConflict", 409),
    boto.ConnectTimeoutError(endpoint_url="https://x"),
    boto.ReadTimeoutError(endpoint_url="https://x"),
    boto.EndpointConnectionError(endpoint_url="https://x"),
    boto.ConnectionClosedError(endpoint_url="https://x"),
    boto.ProxyConnectionError(proxy_url="https://x", error="e"),
    boto.SSLError(endpoint_url="https://x", error="EOF occurred"),
    boto.HTTPClientError(error="e"),
    boto.ResponseStreamingError(error="e"),
    boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    boto.FlexibleChecksumError(error_msg="e"),
    ResponseParserError("not xml"),
    ProtocolError("broken"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    TimeoutError(),
    KeyError("ETag"),
    ValueError("no date"),
]


def named(value: object) -> str:
    if isinstance(value, ClientError):
        return f"{value.response['Error']['Code']}-{value.response['ResponseMetadata']['HTTPStatusCode']}"
    return type(value).__name__ if isinstance(value, Exception) else ""


@pytest.mark.parametrize(("error", "words"), CONFIG, ids=named)
def test_what_cannot_pass_is_never_retried_and_names_a_remedy(error: Exception, words: str) -> None:
    mapped = store_error(error, PLACE)
    assert type(mapped) is StoreConfigError
    assert words in str(mapped)
    assert "\n" not in str(mapped)
    assert str(mapped).endswith(".")


@pytest.mark.parametrize("error", PASSING, ids=named)
def test_what_can_pass_is_retried(error: Exception) -> None:
    mapped = store_error(error, PLACE)
    assert type(mapped) is StoreUnavailable
    assert "https://s3.example.com" in str(mapped)
    assert "\n" not in str(mapped)


def test_our_own_errors_stay() -> None:
    error = ArtifactDamaged("x")
    assert store_error(error, PLACE) is error


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "AccessDenied", "Odd", "InternalError", "SignatureDoesNotMatch"])
def test_no_message_shows_an_access_key(code: str) -> None:
    message = f"The key {KEY} is not known\n<StringToSign>{KEY}/2026</StringToSign>"
    for status in (400, 403, 500):
        assert KEY not in str(store_error(answered(code, status, message), PLACE))


@pytest.mark.parametrize(
    ("error", "absent", "refused", "conflict"),
    [
        (answered("NoSuchKey", 404), True, True, False),
        (answered("404", 404), True, True, False),
        (answered("PreconditionFailed", 412), False, True, False),
        (answered("412", 412), False, True, False),
        (answered("ConditionalRequestConflict", 409), False, False, True),
        (answered("NoSuchBucket", 404), False, False, False),
        (answered("AccessDenied", 403), False, False, False),
        (boto.NoCredentialsError(), False, False, False),
    ],
    ids=named,
)
def test_answers_that_are_no_faults(error: Exception, absent: bool, refused: bool, conflict: bool) -> None:
    assert (is_absent(error), is_refused_condition(error), is_conflict(error)) == (absent, refused, conflict)


def test_all_is_a_store_error() -> None:
    assert all(isinstance(store_error(error, PLACE), StoreError) for error in [*PASSING, *(error for error, _ in CONFIG)])
