"""A store in S3, or on a server that speaks its protocol, as a block that Prefect can keep."""

import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr, ValidationInfo, field_validator, model_validator

from blocks.cache import default_cache
from blocks.errors import PointerChanged, StoreConfigError
from blocks.keys import MANIFEST, check_key, is_key
from blocks.manifest import Manifest, Record, dated
from blocks.pointers import POINTERS, RUNNING, Mark, Pointer, mark_key, pointer_key, read_value, write_value
from blocks.s3_bucket import Bucket
from blocks.s3_client import Settings, client_for
from blocks.s3_fetch import fetch
from blocks.s3_publish import files_folder, is_listed, is_whole, publish, read_manifest
from blocks.s3_sweep import sweep
from blocks.s3_upload import THREADS

# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html; other servers also allow '_' and capitals.
_BUCKET = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


class S3Store(Block):
    """Keep the artifacts of finetune-flows in S3. Credentials that are left empty come from the worker's environment or role.

    Example:
        Load a store that was saved as a block:
        ```python
        from blocks import S3Store

        store = S3Store.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "S3 Store"
    _block_type_slug = "s3-store"
    _description = "Keeps datasets, models and reports of finetune-flows in S3 or on a server that speaks its protocol."
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/AmazonS3/latest/userguide/Welcome.html")
    _logo_url = HttpUrl("https://cdn.sanity.io/images/3ugk85nk/production/d74b16fe84ce626345adf235a47008fea2869a60-225x225.png")

    bucket: str = Field(title="Bucket", description="Name of a bucket that exists.")
    prefix: str = Field(
        default="", title="Prefix", description="Folder in the bucket, such as `finetune/prod`; empty: the whole bucket."
    )
    # What is left empty is "" and not None: for a field that may be null Prefect's form draws a switch between two forms.
    region: str = Field(default="", title="Region", description="The bucket's region, such as `eu-central-1`.")
    endpoint_url: str = Field(
        default="",
        title="Endpoint URL",
        description="Address of a server other than AWS's, such as `https://minio.example.com:9000`.",
    )
    path_style: Literal["auto", "on", "off"] = Field(
        default="auto",
        title="Path style",
        description="Put the bucket's name into the path of URLs, not into the host name; `auto`: on other servers than AWS's.",
    )
    server_side_encryption: Literal["as the bucket is set", "AES256", "aws:kms"] = Field(
        default="as the bucket is set", title="Encryption", description="How the server encrypts what is written."
    )
    kms_key_id: str = Field(
        default="",
        title="KMS key",
        description="Id or ARN of the key for the encryption `aws:kms`; empty: the account's default key.",
    )
    aws_access_key_id: SecretStr = Field(
        default=SecretStr(""), title="Access key id", description="Empty: taken from the environment, a profile or a role."
    )
    aws_secret_access_key: SecretStr = Field(
        default=SecretStr(""), title="Secret access key", description="The secret that belongs to the access key id."
    )
    aws_session_token: SecretStr = Field(
        default=SecretStr(""), title="Session token", description="Only for temporary credentials, which end after some hours."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _none_is_default(cls, value: Any, info: ValidationInfo) -> Any:
        return cls.model_fields[str(info.field_name)].default if value is None and info.field_name != "bucket" else value

    @field_validator("bucket")
    @classmethod
    def _check_bucket(cls, bucket: str) -> str:
        if not _BUCKET.fullmatch(bucket):
            raise StoreConfigError(f"Bucket name {bucket!r} is not valid; use 3 to 63 letters, digits, '-' and '.'.")
        return bucket

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, prefix: str) -> str:
        return check_key(prefix) if prefix else ""

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint(cls, url: str) -> str:
        try:
            parts = urlsplit(url or "http://none")
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            is_url = False
        if not is_url or parts.username is not None or parts.query or parts.fragment:
            # It may hold a password, so it is not repeated.
            raise StoreConfigError("endpoint_url is not http(s)://host[:port]; mend it, and keep credentials out of it.")
        return url

    @model_validator(mode="after")
    def _check_pairs(self) -> "S3Store":
        if bool(self.aws_access_key_id) != bool(self.aws_secret_access_key):
            raise StoreConfigError("Of aws_access_key_id and aws_secret_access_key only one is set; set both or neither.")
        if self.aws_session_token and not self.aws_access_key_id:
            raise StoreConfigError("aws_session_token is set without aws_access_key_id; set both or neither.")
        if self.kms_key_id and self.server_side_encryption != "aws:kms":
            raise StoreConfigError(f"kms_key_id {self.kms_key_id!r} is set; set server_side_encryption to 'aws:kms' too.")
        return self

    def publish(
        self, folder: Path, key: str, record: Record, *, inputs: Sequence[str] = (), made_by: str = "", own: bool = False
    ) -> None:
        """See `ArtifactStore`."""
        publish(self.objects, default_cache(), folder, check_key(key), record, inputs=inputs, made_by=made_by, own=own)

    def inspect(self, key: str) -> Manifest | None:
        """See `ArtifactStore`."""
        found = read_manifest(self.objects, check_key(key))
        return found.manifest if found and found.manifest and is_whole(self.objects, key, found.manifest) else None

    def find(self, key: str) -> Record | None:
        """See `ArtifactStore`."""
        manifest = self.inspect(key)
        return None if manifest is None else manifest.record

    def fetch(self, key: str) -> Path:
        """Download into the cache of this machine, unless it has the artifact. See `ArtifactStore`."""
        return fetch(self.objects, default_cache(), check_key(key))

    # Hides Prefect's own, which deletes a saved block; `prefect block delete` does that too.
    def delete(self, key: str) -> None:  # type: ignore[override]
        """See `ArtifactStore`."""
        self.objects.delete([f"{check_key(key)}/{MANIFEST}"])
        self.objects.delete(self.objects.list(key))

    def check_writable(self) -> None:
        """Try it for real and leave no trace, conditional writes too: not every server knows them. See `ArtifactStore`."""
        path = f".probe-{uuid.uuid4().hex}"
        first = self.objects.put_if(path, b"probe 1", None)
        if not first or self.objects.put_if(path, b"probe 2", None):
            raise StoreConfigError(f"The server of {self} overwrites what a conditional write must keep; use another server.")
        self.objects.delete([path])

    def manifests(self, prefix: str) -> dict[str, Manifest]:
        """See `ArtifactStore`."""
        objects = self.objects.list(check_key(prefix))
        keys = [path.removesuffix(f"/{MANIFEST}") for path in objects if path.endswith(f"/{MANIFEST}")]
        keys = sorted(filter(is_key, keys))
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(lambda key: read_manifest(self.objects, key), keys)
        return {
            key: dated(one.manifest, objects[f"{key}/{MANIFEST}"].age_s)
            for key, one in zip(keys, found, strict=True)
            if one and one.manifest and is_listed(key, one.manifest, objects)
        }

    def locate(self, key: str) -> str:
        """See `ArtifactStore`."""
        found = read_manifest(self.objects, check_key(key))
        return self.objects.address(files_folder(key, found.manifest) if found and found.manifest else key)

    def read_pointer(self, name: str) -> Pointer | None:
        """See `ArtifactStore`."""
        found = self.objects.get(pointer_key(name))
        return None if found is None else Pointer(read_value(found[0], self.objects.address(pointer_key(name))), found[1])

    def swap_pointer(self, name: str, value: Record, expected: str | None) -> None:
        """See `ArtifactStore`."""
        if not self.objects.put_if(pointer_key(name), write_value(value), expected):
            raise PointerChanged(f"Pointer {name!r} in {self} was changed by another run; read it again.")

    def list_pointers(self) -> "list[str]":
        """See `ArtifactStore`."""
        return _names(POINTERS, self.objects.list(POINTERS))

    def mark(self, name: str, content: Record) -> None:
        """See `ArtifactStore`."""
        self.objects.put(mark_key(name), write_value(content))

    def unmark(self, name: str) -> None:
        """See `ArtifactStore`."""
        self.objects.delete([mark_key(name)])

    def marks(self) -> dict[str, Mark]:
        """See `ArtifactStore`."""
        marks, listed = {}, self.objects.list(RUNNING)
        for name in _names(RUNNING, listed):
            # A run that ends meanwhile takes its mark away.
            if found := self.objects.get(mark_key(name)):
                content = read_value(found[0], self.objects.address(mark_key(name)))
                marks[name] = Mark(content, max(0.0, listed[mark_key(name)].age_s))
        return marks

    def sweep(self, min_age_s: float, *, delete: bool) -> "list[str]":
        """See `ArtifactStore`."""
        return sweep(self.objects, min_age_s, delete=delete)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def __repr__(self) -> str:
        return f"S3Store({str(self)!r})"

    # Last, for in the rest of the class the word `list` would mean this method.
    def list(self, prefix: str) -> "list[str]":
        """See `ArtifactStore`."""
        return [*self.manifests(prefix)]

    @property
    def objects(self) -> Bucket:
        """The objects of the store, by a client that is made once for the same settings."""
        settings = Settings(
            endpoint_url=self.endpoint_url or None,
            region=self.region or None,
            path_style=None if self.path_style == "auto" else self.path_style == "on",
            access_key_id=self.aws_access_key_id.get_secret_value() or None,
            secret_access_key=self.aws_secret_access_key.get_secret_value() or None,
            session_token=self.aws_session_token.get_secret_value() or None,
        )
        by_bucket = self.server_side_encryption == "as the bucket is set"
        encryption = {"ServerSideEncryption": "" if by_bucket else self.server_side_encryption, "SSEKMSKeyId": self.kms_key_id}
        return Bucket(
            client_for(settings), self.bucket, self.prefix, {name: value for name, value in encryption.items() if value}
        )


def _names(folder: str, paths: Any) -> "list[str]":
    names = (path.removeprefix(f"{folder}/").removesuffix(".json") for path in paths if path.endswith(".json"))
    return sorted(filter(is_key, names))
