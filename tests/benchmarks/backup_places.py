# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the contenders of bench_backup.py put their repositories, in the words of each of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.tests.integration.repository.engine import directory

# Of tests/support/radosgw.sh, run on the same host. pgBackRest speaks to S3 through TLS only, so all of them do.
ENDPOINT, CERTIFICATE = "https://localhost:8443", Path("/etc/ceph/store.crt")
KEY, SECRET, BUCKET = "bench", "of-test-hosts-alone", "bench"


class Place:
    """A directory.

    Attributes:
        kind: `directory` or `s3`.
        path: of the directory, or below the bucket.
        url, endpoint: of the bucket.
    """

    kind = "directory"
    url = endpoint = ""

    def __init__(self, root: Path) -> None:
        """Args: root: a directory that goes at the end."""
        self.path = str(root / "repository")

    def make(self) -> None:
        """Make it; it is empty."""
        directory(Path(self.path))

    def clear(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def stored(self, prefix: str) -> int:
        """Bytes of what lies below a prefix."""
        return sum(path.stat().st_size for path in Path(self.path, prefix).rglob("*") if path.is_file())

    def for_dbops(self) -> dict[str, Any]:
        """An entry of `repositories`."""
        return {"name": "bench", "type": "directory", "path": self.path}

    def for_pgbackrest(self) -> str:
        """Lines of pgbackrest.conf."""
        return f"repo1-path={self.path}\n"

    def for_boto3(self) -> dict[str, str]:
        """Variables of the environment."""
        return {}


class Bucket(Place):
    """A bucket of radosgw on this host."""

    kind = "s3"
    url, endpoint = f"s3://{BUCKET}", ENDPOINT

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        import boto3  # no need of it where there is no bucket
        from botocore.config import Config

        self.path = "/repository"
        self._credentials = _readable(
            root / "credentials", f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"
        )
        self._config = _readable(root / "config", "[default]\ns3 =\n  addressing_style = path\n")
        self._bucket = boto3.resource(
            "s3",
            endpoint_url=ENDPOINT,
            region_name="default",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            verify=str(CERTIFICATE),
            config=Config(s3={"addressing_style": "path"}),
        ).Bucket(BUCKET)

    def make(self) -> None:
        self.clear()

    def clear(self) -> None:
        for item in self._bucket.objects.all():
            item.delete()

    def stored(self, prefix: str) -> int:
        return sum(item.size for item in self._bucket.objects.filter(Prefix=prefix))

    def for_dbops(self) -> dict[str, Any]:
        return {
            "name": "bench",
            "type": "s3",
            "bucket": BUCKET,
            "endpoint": ENDPOINT,
            "region": "default",
            "path_style": True,
            "credentials_file": str(self._credentials),
            "ca_file": str(CERTIFICATE),
        }

    def for_pgbackrest(self) -> str:
        host, port = ENDPOINT.removeprefix("https://").split(":")
        return (
            f"repo1-type=s3\nrepo1-path={self.path}\nrepo1-s3-bucket={BUCKET}\nrepo1-s3-endpoint={host}\n"
            f"repo1-s3-region=default\nrepo1-s3-uri-style=path\nrepo1-s3-key={KEY}\nrepo1-s3-key-secret={SECRET}\n"
            f"repo1-storage-port={port}\nrepo1-storage-ca-file={CERTIFICATE}\n"
        )

    def for_boto3(self) -> dict[str, str]:
        return {
            "AWS_SHARED_CREDENTIALS_FILE": str(self._credentials),
            "AWS_CONFIG_FILE": str(self._config),
            "AWS_CA_BUNDLE": str(CERTIFICATE),
            "AWS_DEFAULT_REGION": "default",
            # Stores other than AWS may reject the checksums that boto3 adds from 1.36 on.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }


def _readable(path: Path, text: str) -> Path:
    """Write a file that the server's OS user alone can read."""
    path.write_text(text)
    path.chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(path, "postgres", "postgres")
    return path


PLACES: dict[str, type[Place]] = {"directory": Place, "s3": Bucket}
