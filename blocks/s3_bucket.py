"""The objects under a prefix of a bucket: small reads, conditional writes, listings; every error is one of ours."""

import hashlib
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from blocks.errors import StoreConfigError, StoreError, StoreUnavailable
from blocks.keys import LONGEST_KEY
from blocks.s3_client import place_of
from blocks.s3_errors import Place, is_absent, is_conflict, is_refused_condition, store_error

FOREIGN = (BotoCoreError, ClientError, Boto3Error, HTTPError, OSError, ResponseParserError, ValueError, KeyError)
"""What the client and the disk raise; the last three where bytes of an answer changed on their way."""

_BATCH = 1000
_TRIES = 4


@dataclass(frozen=True)
class Stored:
    """An object as a listing shows it; `path` is relative to the store's prefix, the age is by the server's clock."""

    path: str
    size: int
    etag: str
    age_s: float


@dataclass(frozen=True)
class Bucket:
    """The objects of `name` under `prefix`; paths are relative to it."""

    client: Any
    name: str
    prefix: str = ""
    put_arguments: Mapping[str, str] = field(default_factory=dict)
    """Further arguments of every write, such as encryption."""

    @property
    def place(self) -> Place:
        """Return what messages name."""
        return place_of(self.client, self.name)

    def key(self, path: str) -> str:
        """Return the key of the object at `path`.

        Raises:
            StoreConfigError: it is longer than S3 allows.
        """
        key = f"{self.prefix}/{path}" if self.prefix else path
        if len(key.encode()) > LONGEST_KEY:
            raise StoreConfigError(f"Object key {key!r} is longer than {LONGEST_KEY} bytes; use shorter names of files.")
        return key

    def address(self, path: str) -> str:
        """Return `s3://bucket/key` of `path`."""
        return f"s3://{self.name}/{self.key(path)}"

    def call(self, operation: str, **arguments: Any) -> Any:
        """Call an operation of the client on this bucket; None if the object is not there."""
        try:
            return getattr(self.client, operation)(Bucket=self.name, **arguments)
        except FOREIGN as error:
            if is_absent(error):
                return None
            problem = store_error(error, self.place)
        # Outside of the handler: the foreign error may hold the access key, and would be printed with ours.
        raise problem

    def get(self, path: str) -> tuple[bytes, str] | None:
        """Return an object's bytes and etag, or None if it is not there."""
        problem: StoreError | None = None
        for _ in range(_TRIES):
            answer = self.call("get_object", Key=self.key(path))
            if answer is None:
                return None
            try:
                # The client does not send a request again once the answer has begun.
                body, etag = answer["Body"].read(), answer["ETag"]
                # Headers that were cut off pass for shorter ones, and without a length so does any body.
                if len(body) == answer["ContentLength"] and _digest(body) == answer["Metadata"].get("sha256", _digest(body)):
                    return body, etag
                problem = StoreUnavailable(f"The bytes of {self.address(path)!r} change on their way; try again.")
            except FOREIGN as error:
                problem = store_error(error, self.place)
        assert problem is not None
        raise problem

    def put(self, path: str, body: bytes) -> None:
        """Write a small object, whatever is there."""
        self.call("put_object", Key=self.key(path), Body=body, **self._arguments(body))

    def put_if(self, path: str, body: bytes, etag: str | None) -> bool:
        """Write a small object if the one that is there has `etag`; None: if there is none.

        `body` must be unlike any other writer's: when an answer is lost, the client sends the request again and is refused by
        what it wrote itself.

        Returns:
            Whether `body` is there now by this call.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        for _ in range(_TRIES):
            try:
                self.client.put_object(Bucket=self.name, Key=self.key(path), Body=body, **condition, **self._arguments(body))
                return True
            except FOREIGN as error:
                if is_conflict(error):
                    continue
                problem = None if is_refused_condition(error) else store_error(error, self.place)
            if problem is None:
                return self._is_there(path, body)
            if isinstance(problem, StoreUnavailable):
                with suppress(StoreUnavailable):
                    if self._is_there(path, body):
                        return True
            raise problem
        raise StoreUnavailable(f"Other runs keep writing {self.address(path)!r}; try again.")

    def _arguments(self, body: bytes) -> dict[str, Any]:
        # Not every server gives back the checksum that it checked when it took the object.
        return {"Metadata": {"sha256": _digest(body)}, **self.put_arguments}

    def _is_there(self, path: str, body: bytes) -> bool:
        found = self.get(path)
        return found is not None and found[0] == body

    def sha256_of(self, path: str) -> str:
        """Return the sha256 that was kept with an object; empty if it is not there or has none."""
        answer = self.call("head_object", Key=self.key(path))
        return str(answer["Metadata"].get("sha256", "")) if answer else ""

    def list(self, folder: str) -> dict[str, Stored]:
        """Return the objects under `folder/`, by path."""
        return self.scan(f"{folder}/")

    def scan(self, start: str, *, delimiter: str = "") -> dict[str, Stored]:
        """Return the objects whose paths begin with `start`, by path; with a `delimiter`, those without it after `start`."""
        start = f"{self.prefix}/{start}" if self.prefix else start
        found: dict[str, Stored] = {}
        more: dict[str, str] = {}
        while True:
            answer = self.call("list_objects_v2", Prefix=start, Delimiter=delimiter, **more)
            if answer is None:
                return found
            if "Name" not in answer:
                raise StoreUnavailable(f"The answer of {self.place.endpoint} was cut off; try again.")
            now = server_time(answer)
            for item in answer.get("Contents", ()):
                if not item["Key"].startswith(start):
                    raise StoreUnavailable(f"The server at {self.place.endpoint} lists what was not asked for; try again.")
                path = item["Key"].removeprefix(f"{self.prefix}/" if self.prefix else "")
                found[path] = Stored(path, item["Size"], item["ETag"], now - item["LastModified"].timestamp())
            if not answer.get("IsTruncated"):
                return found
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects; those that are not there are no fault."""
        keys = [self.key(path) for path in paths]
        for start in range(0, len(keys), _BATCH):
            batch = [{"Key": key} for key in keys[start : start + _BATCH]]
            answer = self.call("delete_objects", Delete={"Objects": batch, "Quiet": True}) or {}
            for fault in answer.get("Errors", ()):
                if fault.get("Code") != "NoSuchKey":
                    raise store_error(ClientError({"Error": fault}, "DeleteObjects"), self.place)

    def uploads(self) -> dict[tuple[str, str], float]:
        """Return key and id of the unfinished multipart uploads under the prefix, with their ages in seconds."""
        found: dict[tuple[str, str], float] = {}
        more: dict[str, str] = {}
        while True:
            answer = self.call("list_multipart_uploads", Prefix=self.prefix and f"{self.prefix}/", **more) or {}
            for item in answer.get("Uploads", ()):
                found[item["Key"], item["UploadId"]] = server_time(answer) - item["Initiated"].timestamp()
            if not answer.get("IsTruncated"):
                return found
            more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}


def server_time(answer: Any) -> float:
    """Return when the server answered, by its own clock, as seconds since 1970."""
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, ValueError):
        return time.time()


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
