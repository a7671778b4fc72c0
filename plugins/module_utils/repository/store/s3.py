# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository in S3 or in a store that speaks its language.

Every object goes up in one PUT (packs are cut small enough), never as a multipart upload: stores disagree about what a
condition means on those, and abandoned parts cost money unseen.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreUnavailable,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.interface import StoredObject

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 60
ATTEMPTS = 4
# Threads of one process share one client; this many connections are kept.
CONNECTIONS = 16
# Of AWS, RGW, MinIO; Google takes its own header (and ignores AWS's on a PUT).
S3_CONDITION = ("If-None-Match", "*")
GCS_CONDITION = ("x-goog-if-generation-match", "0")
GCS_ENDPOINT = "https://storage.googleapis.com"

_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class S3Settings:
    """How to reach a bucket.

    Attributes:
        bucket: it must exist.
        prefix: put before every key, without slashes at the ends; empty for the whole bucket.
        endpoint: URL of an S3-compatible store; None for AWS.
        region: as the store calls it.
        path_style: `endpoint/bucket/key` instead of `bucket.endpoint/key`; most stores of one's own need it.
        storage_class: such as STANDARD_IA; None for the bucket's default.
        sse: server side encryption, `AES256` or `aws:kms`.
        sse_kms_key_id: with `aws:kms`.
        credentials_file: in the format of `~/.aws/credentials`; None for the instance profile and botocore's other
            ways.
        profile: the section in that file.
        ca_file: certificates that the endpoint's own is checked against; None for the system's.
        condition: the header that makes a PUT fail when the key exists.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    storage_class: str | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None
    credentials_file: str | None = None
    profile: str | None = None
    ca_file: str | None = None
    condition: tuple[str, str] = S3_CONDITION


def _was_repeated(error: ObjectExists) -> bool:
    """Whether botocore had sent the request before the one that this is the answer to."""
    response = getattr(error.__cause__, "response", {})
    return bool(response.get("ResponseMetadata", {}).get("RetryAttempts"))


class S3Store:
    """Objects in a bucket, below a prefix."""

    def __init__(self, settings: S3Settings, *, refuses_overwriting: bool = False) -> None:
        """Args: refuses_overwriting: what the probe found when the repository was made (see probe.py)."""
        self._settings = settings
        self.refuses_overwriting = refuses_overwriting
        self._prefix = settings.prefix.strip("/") + "/" if settings.prefix.strip("/") else ""
        self._client = _client(settings)
        self._client.meta.events.register("before-sign.s3.PutObject", self._add_condition)

    @property
    def address(self) -> str:
        where = f"s3://{self._settings.bucket}/{self._prefix}".rstrip("/")
        return f"{where} at {self._settings.endpoint}" if self._settings.endpoint else where

    def create(self, key: str, data: bytes) -> None:
        try:
            self._put(key, data)
        except ObjectExists as error:
            # After a repeated request the object can be this very one: the store took it, and its answer was lost.
            if not _was_repeated(error) or self.read(key) != data:
                raise

    def _put(self, key: str, data: bytes) -> None:
        md5 = hashlib.md5(data, usedforsecurity=False)
        arguments: dict[str, Any] = {"ContentMD5": base64.b64encode(md5.digest()).decode("ascii")}
        if self._settings.storage_class:
            arguments["StorageClass"] = self._settings.storage_class
        if self._settings.sse:
            arguments["ServerSideEncryption"] = self._settings.sse
        if self._settings.sse_kms_key_id:
            arguments["SSEKMSKeyId"] = self._settings.sse_kms_key_id
        with self._naming_errors(key):
            answer = self._client.put_object(
                Bucket=self._settings.bucket, Key=self._prefix + key, Body=data, **arguments
            )
        etag = str(answer.get("ETag", "")).strip('"')
        if not etag:
            raise StoreUnavailable(f"{self.address}: the answer to writing {key} carries no ETag, so nothing is proven")
        # With a KMS key, which the bucket's default may bring, the ETag is no MD5 of the content, and says nothing.
        encryption = str(answer.get("ServerSideEncryption") or self._settings.sse or "")
        if not encryption.startswith("aws:kms") and _MD5.fullmatch(etag) and etag != md5.hexdigest():
            # Its name says that it is right, so the next try must not find it.
            self.delete(key)
            raise ObjectCorrupt(f"{self.address}: {key} arrived with MD5 {etag}, {md5.hexdigest()} was sent")

    def read(self, key: str) -> bytes:
        return self._retrying(key, lambda: self._get(key, None))

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        data = self._retrying(key, lambda: self._get(key, f"bytes={offset}-{offset + length - 1}"))
        if len(data) != length:
            raise ObjectCorrupt(f"{self.address}: {length} bytes of {key} were asked for, {len(data)} came")
        return data

    def list(self, prefix: str, after: str = "") -> Iterator[StoredObject]:
        start = {"StartAfter": self._prefix + after} if after else {}
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._settings.bucket, Prefix=self._prefix + prefix, **start
        )
        with self._naming_errors(prefix):
            for page in pages:
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self._prefix)
                    yield StoredObject(key, item["Size"], item["LastModified"].timestamp())

    def delete(self, key: str) -> None:
        with self._naming_errors(key):
            self._client.delete_object(Bucket=self._settings.bucket, Key=self._prefix + key)

    def sweep(self, before: float) -> int:
        # An object that was not sent completely is none: there are no multipart uploads to abandon.
        return 0

    def _get(self, key: str, byte_range: str | None) -> bytes:
        arguments = {"Range": byte_range} if byte_range else {}
        answer = self._client.get_object(Bucket=self._settings.bucket, Key=self._prefix + key, **arguments)
        data: bytes = answer["Body"].read()
        if len(data) != answer["ContentLength"]:
            raise ConnectionError(f"{len(data)} of {answer['ContentLength']} bytes came")
        return data

    def _retrying(self, key: str, get: Callable[[], bytes]) -> bytes:
        """botocore repeats a request, but not a body that breaks off; that is repeated here."""
        with self._naming_errors(key):
            for attempt in range(1, ATTEMPTS):
                try:
                    return get()
                except _broken_bodies():
                    time.sleep(0.2 * attempt)
            return get()

    def _add_condition(self, request: Any, **_: Any) -> None:
        # As a header before signing, because boto3 of Debian 12 has no parameter for it.
        if self.refuses_overwriting:
            name, value = self._settings.condition
            request.headers[name] = value

    @contextlib.contextmanager
    def _naming_errors(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise self._translated(key, error) from error
        except Exception as error:
            if not isinstance(error, (BotoCoreError, *_broken_bodies())):
                raise
            raise StoreUnavailable(f"{self.address}: {key}: {error}", remedy=_remedy(type(error).__name__)) from error

    def _translated(self, key: str, error: Any) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code == "NoSuchKey" or (status == 404 and code in ("404", "NotFound")):
            return ObjectMissing(f"{key} is not in {self.address}")
        if status == 412 or code == "PreconditionFailed":
            return ObjectExists(f"{key} is already in {self.address}")
        return StoreUnavailable(
            f"{self.address}: {key}: the store answered {status} {code}: "
            f"{error.response.get('Error', {}).get('Message')}",
            remedy=_remedy(code),
            status=status,
            code=code,
        )


def _client(settings: S3Settings) -> Any:
    try:
        import boto3
        import botocore.session
        from botocore.config import Config
    except ImportError as error:
        raise StoreUnavailable(f"A repository in S3 needs boto3: {error}", remedy="Install python3-boto3.") from error
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "read_timeout": READ_TIMEOUT_SECONDS,
        "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
        "max_pool_connections": CONNECTIONS,
        "tcp_keepalive": True,
        "s3": {"addressing_style": "path" if settings.path_style else "auto"},
    }
    try:
        # From 1.36 on botocore adds checksum trailers that stores other than AWS reject; older ones do not know the
        # option.
        config = Config(
            request_checksum_calculation="when_required", response_checksum_validation="when_required", **options
        )
    except TypeError:
        config = Config(**options)
    core = botocore.session.Session()
    if settings.credentials_file:
        core.set_config_variable("credentials_file", settings.credentials_file)
    if settings.profile:
        core.set_config_variable("profile", settings.profile)
    try:
        return boto3.Session(botocore_session=core).client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=settings.region,
            verify=settings.ca_file,
            config=config,
        )
    except Exception as error:  # botocore raises ValueError, its own and others for bad settings
        raise StoreUnavailable(f"s3://{settings.bucket}: {error}", remedy=_remedy(type(error).__name__)) from error


def _broken_bodies() -> tuple[type[Exception], ...]:
    from botocore.exceptions import HTTPClientError, IncompleteReadError
    from urllib3.exceptions import HTTPError

    return (ConnectionError, HTTPClientError, IncompleteReadError, HTTPError)


_REMEDIES = {
    "AccessDenied": "The credentials need s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject on the bucket.",
    "InvalidAccessKeyId": "Check the credentials file; the key may have been deleted or belong to another store.",
    "SignatureDoesNotMatch": "Check the secret key, the region and, with a store of your own, path_style.",
    "ExpiredToken": "Renew the credentials.",
    "RequestTimeTooSkewed": "Set the host's clock (chronyc tracking).",
    "NoSuchBucket": "Create the bucket; it is never created by a backup.",
    "NoCredentialsError": "Name a credentials_file, or give the instance a profile.",
    "ProfileNotFound": "Check the profile's name in the credentials file.",
    "SSLError": "Name the certificate authority of the endpoint in ca_file.",
}


def _remedy(code: str) -> str | None:
    return _REMEDIES.get(code)
