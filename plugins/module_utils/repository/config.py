# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's configuration: `/etc/dbops-fleet/backup.json` on a host, or a module's parameters. One form for both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.retention import Policy

DEFAULT_FILE = "/etc/dbops-fleet/backup.json"

S = TypeVar("S")


@dataclass(frozen=True)
class RepositorySettings:
    """One place that keeps backups and WAL.

    Attributes:
        name: how commands and messages call it.
        type: `directory`, `s3` or `gcs` (Google's S3 interface).
        path: with `directory`, absolute.
        bucket, prefix, endpoint, region, path_style, storage_class, sse, sse_kms_key_id, credentials_file, profile,
            ca_file: with `s3` and `gcs`, see store/s3.py.
        recipients: OpenPGP keys that can read the repository; empty for no encryption of our own.
        gnupg_home: directory of the keyring with these keys.
        passphrase_file: of the secret key, on hosts that read.
    """

    name: str
    type: str
    path: str = ""
    bucket: str = ""
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
    recipients: tuple[str, ...] = ()
    gnupg_home: str = "/etc/dbops-fleet/gnupg"
    passphrase_file: str | None = None


@dataclass(frozen=True)
class WalSettings:
    """How WAL is archived.

    Attributes:
        level: of zstd. 1 compresses WAL nearly as well as 3, at twice the speed.
        threads: segments that are archived at a time.
        ahead: segments that are archived before PostgreSQL asks for them.
        prefetch: segments that are fetched before PostgreSQL asks for them.
        receive_seconds: after so long what was written since is sent, where the receiver runs.
        timeout_seconds: `archive_command` gives up after this and PostgreSQL tries again.
    """

    level: int = 1
    threads: int = 2
    ahead: int = 64
    prefetch: int = 32
    receive_seconds: float = 2
    timeout_seconds: float = 60


@dataclass(frozen=True)
class BackupSettings:
    """How base backups are taken and restored.

    Attributes:
        level: of zstd.
        threads: that compress and write, or read and unpack.
        max_rate_kb: kilobytes per second that the server sends at most; None for no limit.
    """

    level: int = 3
    threads: int = 2
    max_rate_kb: int | None = None


@dataclass(frozen=True)
class DumpSettings:
    """What the timed dump takes.

    Attributes:
        databases: their names; empty for all.
        globals: roles and tablespaces as well.
        passwords: with the roles' password hashes.
        lock_wait_seconds: how long a dump waits for a table that somebody has locked.
    """

    databases: tuple[str, ...] = ()
    globals: bool = True
    passwords: bool = False
    lock_wait_seconds: float = 60


@dataclass(frozen=True)
class Config:
    """Everything the engine has to know about one instance and its repositories.

    Attributes:
        cluster: name of the cluster that the instance belongs to.
        data_directory: of the instance, absolute.
        bin_directory: where its `pg_controldata` and `postgres` are.
        configuration_directory: such as `/etc/postgresql/15/main`; None when it lies in the data directory.
        socket_directory: of the instance.
        port: of the instance.
        user: database role with REPLICATION and pg_monitor.
        spool_directory: for markers, prefetched WAL and the archiver's socket. On a local disk.
        state_directory: for data keys and locks; readable by PostgreSQL's account alone.
        repositories: the first one is read from first; all of them are written to.
        wal, backup, dump, retention: see there.
        dump_retention: which dumps stay; None for the same rules as for base backups.
    """

    cluster: str
    data_directory: str
    bin_directory: str
    repositories: tuple[RepositorySettings, ...]
    configuration_directory: str | None = None
    socket_directory: str = "/var/run/postgresql"
    port: int = 5432
    user: str = "postgres"
    spool_directory: str = "/var/spool/dbops-fleet"
    state_directory: str = "/var/lib/dbops-fleet"
    wal: WalSettings = field(default_factory=WalSettings)
    backup: BackupSettings = field(default_factory=BackupSettings)
    dump: DumpSettings = field(default_factory=DumpSettings)
    retention: Policy = field(default_factory=Policy)
    dump_retention: Policy | None = None


def load(path: str = DEFAULT_FILE) -> Config:
    """Raises Refused when the file is missing or wrong."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(
            f"Cannot read the configuration {path}: {error.strerror}",
            remedy="Apply the role `backup`, or name it with --config.",
        ) from None
    except ValueError as error:
        raise Refused(f"The configuration {path} is not JSON: {error}") from None
    return parse(data)


def parse(data: Mapping[str, Any]) -> Config:
    """From plain data. Values that are None count as not given.

    Raises:
        Refused: something is missing, unknown or of the wrong form.
    """
    values = dict(data)
    repositories = tuple(_repository(item) for item in values.pop("repositories", None) or ())
    if not repositories:
        raise Refused("The configuration names no repository", remedy="Add at least one to `repositories`.")
    names = [repository.name for repository in repositories]
    if len(set(names)) != len(names):
        raise Refused(f"Two repositories have the same name: {', '.join(names)}")
    parts: dict[str, Any] = {"repositories": repositories}
    sections = (("wal", WalSettings), ("backup", BackupSettings), ("dump", DumpSettings), ("retention", Policy))
    for name, form in sections:
        parts[name] = _filled(form, values.pop(name, None) or {}, name)
    if values.get("dump_retention"):
        parts["dump_retention"] = _filled(Policy, values.pop("dump_retention"), "dump_retention")
    values.pop("dump_retention", None)
    config = _filled(Config, {**values, **parts}, "configuration")
    for name in ("data_directory", "bin_directory", "spool_directory", "state_directory"):
        if not getattr(config, name).startswith("/"):
            raise Refused(f"{name} must be an absolute path, not {getattr(config, name)!r}")
    return config


def _repository(data: Mapping[str, Any]) -> RepositorySettings:
    settings = _filled(RepositorySettings, data, "repository")
    if settings.type not in ("directory", "s3", "gcs"):
        raise Refused(f"Repository {settings.name}: {settings.type!r} is no type", remedy="Use directory, s3 or gcs.")
    needed = "path" if settings.type == "directory" else "bucket"
    if not getattr(settings, needed):
        raise Refused(f"Repository {settings.name}: the type {settings.type} needs `{needed}`")
    if settings.type == "directory" and not settings.path.startswith("/"):
        raise Refused(f"Repository {settings.name}: the path {settings.path!r} is not absolute")
    return settings


def _filled(form: type[S], data: Mapping[str, Any], where: str) -> S:
    known = {item.name for item in fields(form)}  # type: ignore[arg-type]
    given = {name: value for name, value in data.items() if value is not None}
    unknown = sorted(set(given) - known)
    if unknown:
        raise Refused(f"Unknown in {where}: {', '.join(unknown)}", remedy=f"Known are: {', '.join(sorted(known))}.")
    try:
        return form(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
    except TypeError as error:
        raise Refused(f"The {where} is incomplete: {error}") from None
