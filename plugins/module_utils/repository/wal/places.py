# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The repositories that WAL goes to. A segment counts only when all keep it, but one that is down holds up no other."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config, RepositorySettings
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ContentConflict
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository, open_repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.push import Prepared, prepare, put

# How long a repository that failed is left alone at least.
REST_SECONDS = 5.0


class Place:
    """One repository: opened when it is needed first, and left alone for a while after it failed.

    Attributes:
        name: of the repository.
        error: why it is down; None while it is not.
    """

    def __init__(self, settings: RepositorySettings, config: Config, cluster: Cluster) -> None:
        self.name = settings.name
        self.error: FleetError | None = None
        self._settings = settings
        self._config = config
        self._cluster = cluster
        self._repository: Repository | None = None
        self._lock = threading.Lock()
        self._rest_seconds = REST_SECONDS
        self._rests_until = 0.0

    @property
    def resting(self) -> bool:
        """Whether it failed so lately that only an urgent caller tries it."""
        return self.error is not None and time.monotonic() < self._rests_until

    def claim(self, *, urgent: bool = False) -> bool:
        """Whether to try it now. When it is down, one caller at a time finds out whether it is back.

        Args:
            urgent: whether not to wait until it has rested.
        """
        with self._lock:
            if self.error is None:
                return True
            if not urgent and time.monotonic() < self._rests_until:
                return False
            # The others wait until this try has ended, which takes about as long as the last one.
            self._rests_until = time.monotonic() + 2 * self._rest_seconds
            return True

    def open(self) -> Repository:
        """Raises FleetError when it cannot be opened, or keeps another cluster."""
        with self._noting_failure():
            if self._repository is None:
                repository = open_repository(self._settings, self._config)
                repository.check_system(self._cluster.system, self._cluster.major)
                self._repository = repository
            return self._repository

    def put(self, prepared: Prepared) -> int:
        """As wal.push.put."""
        repository = self.open()
        with self._noting_failure():
            stored = put(repository, self._cluster.system, prepared)
        self.error = None
        return stored

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except ContentConflict:
            raise  # it answered
        except FleetError as error:
            with self._lock:
                self.error = error
                self._repository = None
                # A store that does not answer makes each try long, so it is tried the less often.
                self._rest_seconds = max(REST_SECONDS, time.monotonic() - began)
                self._rests_until = time.monotonic() + self._rest_seconds
            raise


@dataclass(frozen=True)
class Archived:
    """What came of a file.

    Attributes:
        taken: names of the repositories that keep it now.
        already: of those among them that had the same content before.
        errors: of those that were tried and failed.
        waiting: why others were not tried.
    """

    taken: tuple[str, ...]
    already: tuple[str, ...]
    errors: tuple[FleetError, ...]
    waiting: tuple[FleetError, ...]

    @property
    def complete(self) -> bool:
        """Whether every repository keeps the file."""
        return not self.errors and not self.waiting


def archive(
    places: Sequence[Place],
    cluster: Cluster,
    path: Path,
    *,
    level: int,
    taken: Collection[str] = (),
    urgent: bool = True,
) -> Archived:
    """Put a file of `pg_wal` into every place that can take it, those that are down last.

    Args:
        places: to put it into.
        cluster: the file must belong to it.
        path: of the file.
        level: of zstd.
        taken: names of those that have it.
        urgent: whether those that are down are tried although they failed just now.

    Raises:
        Refused: the file is not what its name says, or another content of that name is archived (ContentConflict); then
            no other place gets it.
    """
    lacking = sorted((place for place in places if place.name not in taken), key=lambda one: one.error is not None)
    prepared: Prepared | None = None
    stored: dict[str, int] = {}
    errors: list[FleetError] = []
    waiting: list[FleetError] = []
    for place in lacking:
        if not place.claim(urgent=urgent):
            waiting.append(place.error or OperationFailed(f"Repository {place.name} is being tried"))
            continue
        prepared = prepared or prepare(cluster, path, level=level)
        try:
            stored[place.name] = place.put(prepared)
        except ContentConflict:
            raise
        except FleetError as error:
            errors.append(error)
    already = tuple(name for name, size in stored.items() if not size)
    return Archived((*taken, *stored), already, tuple(errors), tuple(waiting))
