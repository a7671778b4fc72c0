# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One opened repository: its store, its identity, and how content becomes objects and comes back."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository import compression, layout, seal
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config, RepositorySettings
from ansible_collections.dbops.fleet.plugins.module_utils.repository.keys import Keyring
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    NoRepository,
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreUnavailable,
    WrongIdentity,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store import probe
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.directory import DirectoryStore
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.interface import Store
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.s3 import (
    GCS_CONDITION,
    GCS_ENDPOINT,
    S3_CONDITION,
    S3Settings,
    S3Store,
)


class Repository:
    """A repository whose identity was checked."""

    def __init__(self, name: str, store: Store, keyring: Keyring | None) -> None:
        self.name = name
        self.store = store
        self._keyring = keyring

    @property
    def sealed(self) -> bool:
        """Whether new objects are encrypted."""
        return self._keyring is not None

    def prepare_writing(self) -> None:
        """Get the data key now, so that a missing public key is found before the first segment is due."""
        if self._keyring is not None:
            self._keyring.writing_key()

    def wrap(self, compressed: bytes) -> bytes:
        """Seal compressed content where the repository is encrypted."""
        return compressed if self._keyring is None else seal.seal(compressed, self._keyring.writing_key())

    def decode(self, stored: bytes, name: str, sha256: str | None = None) -> bytes:
        """The raw content again.

        Args:
            stored: what `wrap` gave.
            name: of the object, for messages.
            sha256: what the raw content must hash to; None where it is not known.

        Raises:
            ObjectCorrupt: it is not what was written.
        """
        if stored.startswith(seal.MAGIC):
            if self._keyring is None:
                raise Refused(
                    f"{self.store.address}: {name} is encrypted, and repository {self.name} has no recipients "
                    f"configured",
                    remedy="Set recipients and gnupg_home of this repository.",
                )
            stored = seal.unseal(stored, self._keyring.key(seal.key_id(stored)))
        try:
            raw = compression.decompress(stored)
        except ValueError as error:
            raise ObjectCorrupt(f"{self.store.address}: {name} {error}") from None
        if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
            raise ObjectCorrupt(f"{self.store.address}: {name} does not have the hash that it was written with")
        return raw

    def put_json(self, key: str, data: Any) -> None:
        """Write a small object that people may want to read. Raises ObjectExists."""
        self.store.create(key, json.dumps(data, indent=1, sort_keys=True).encode("utf-8") + b"\n")

    def get_json(self, key: str) -> Any:
        """Raises ObjectMissing, ObjectCorrupt."""
        try:
            return json.loads(self.store.read(key))
        except ValueError as error:
            raise ObjectCorrupt(f"{self.store.address}: {key} is not JSON: {error}") from None

    def check_system(self, system: int, major: int) -> None:
        """Refuse to work for a cluster that this repository was not made for.

        Raises:
            WrongIdentity: it keeps other clusters.
        """
        try:
            known = self.get_json(layout.system_object(system))
        except ObjectMissing:
            others = sorted(
                {item.key.split("/")[0] for item in self.store.list("") if item.key.endswith("/system.json")}
            )
            raise WrongIdentity(
                f"Repository {self.name} ({self.store.address}) keeps system identifier "
                f"{', '.join(others) or 'none yet'}, "
                f"this cluster has {system}",
                remedy="If this is the same cluster after an upgrade, or a new one, run `dbops init` once on "
                "its primary.",
            ) from None
        if known["major"] != major:
            raise WrongIdentity(
                f"Repository {self.name} knows system {system} as PostgreSQL {known['major']}, not {major}"
            )


def open_repository(settings: RepositorySettings, config: Config) -> Repository:
    """Open a repository that `init` made.

    Raises:
        StoreUnavailable: it cannot be reached.
        NoRepository: there is none (an unmounted disk looks like that).
        WrongIdentity: it belongs to another cluster.
    """
    store = _store(settings)
    try:
        identity = json.loads(store.read(layout.REPOSITORY))
    except ObjectMissing:
        raise NoRepository(
            f"Repository {settings.name}: there is none at {store.address}",
            remedy="Mount it if it is a disk that is not mounted; for a new one run `dbops init`.",
        ) from None
    except ValueError:
        raise ObjectCorrupt(f"{store.address}: {layout.REPOSITORY} is not JSON") from None
    if identity["format"] != layout.FORMAT:
        raise Refused(f"Repository {settings.name} has format {identity['format']}, this engine knows {layout.FORMAT}")
    if identity["cluster"] != config.cluster:
        raise WrongIdentity(
            f"Repository {settings.name} at {store.address} belongs to cluster {identity['cluster']}, not to "
            f"{config.cluster}",
            remedy="Give every cluster a path or prefix of its own.",
        )
    if isinstance(store, S3Store):
        store.refuses_overwriting = bool(identity["refuses_overwriting"])
    return Repository(settings.name, store, _keyring(settings, store, config, identity["id"]))


def init(settings: RepositorySettings, config: Config, *, system: int, major: int, segment_size: int) -> bool:
    """Make a repository, or make a cluster known to it. Running it again changes nothing.

    Args:
        settings: of the repository.
        config: with the cluster's name.
        system: system identifier of the running cluster.
        major: its version.
        segment_size: bytes.

    Returns:
        Whether anything was written.

    Raises:
        WrongIdentity: it belongs to another cluster.
    """
    changed = False
    store = _store(settings)
    try:
        store.read(layout.REPOSITORY)
    except ObjectMissing:
        identity = {
            "format": layout.FORMAT,
            "id": uuid.uuid4().hex,
            "cluster": config.cluster,
            "created": time.time(),
            "refuses_overwriting": probe.refuses_overwriting(store) if isinstance(store, S3Store) else True,
        }
        store.create(layout.REPOSITORY, json.dumps(identity, indent=1, sort_keys=True).encode("utf-8") + b"\n")
        changed = True
    repository = open_repository(settings, config)
    try:
        repository.check_system(system, major)
    except WrongIdentity:
        facts = {"system_identifier": str(system), "major": major, "segment_size": segment_size, "created": time.time()}
        try:
            repository.put_json(layout.system_object(system), facts)
        except ObjectExists:
            repository.check_system(system, major)
        changed = True
    repository.prepare_writing()
    return changed


def open_first(config: Config, name: str | None = None) -> Repository:
    """The named repository, or the first that can be opened.

    Raises:
        FleetError: none can; the message has the reason of each.
    """
    chosen = [settings for settings in config.repositories if name in (None, settings.name)]
    if not chosen:
        known = ", ".join(settings.name for settings in config.repositories)
        raise Refused(f"There is no repository {name}", remedy=f"Configured are: {known}.")
    errors = []
    for settings in chosen:
        try:
            return open_repository(settings, config)
        except FleetError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise StoreUnavailable("No repository can be opened: " + " ".join(str(error) for error in errors))


def _store(settings: RepositorySettings) -> Store:
    if settings.type == "directory":
        return DirectoryStore(settings.path)
    google = settings.type == "gcs"
    return S3Store(
        S3Settings(
            bucket=settings.bucket,
            prefix=settings.prefix,
            endpoint=settings.endpoint or (GCS_ENDPOINT if google else None),
            region=settings.region,
            path_style=settings.path_style,
            storage_class=settings.storage_class,
            sse=settings.sse,
            sse_kms_key_id=settings.sse_kms_key_id,
            credentials_file=settings.credentials_file,
            profile=settings.profile,
            ca_file=settings.ca_file,
            condition=GCS_CONDITION if google else S3_CONDITION,
        )
    )


def _keyring(settings: RepositorySettings, store: Store, config: Config, repository_id: str) -> Keyring | None:
    if not settings.recipients:
        return None
    return Keyring(
        store,
        Path(config.state_directory) / "keys" / repository_id,
        recipients=settings.recipients,
        gnupg_home=settings.gnupg_home,
        passphrase_file=settings.passphrase_file,
    )
