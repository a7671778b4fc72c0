# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the state of the archive, and proving it by a segment that goes in and comes back."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository import cluster as clusters
from ansible_collections.dbops.fleet.plugins.module_utils.repository import server
from ansible_collections.dbops.fleet.plugins.module_utils.repository.cluster import Cluster
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config, RepositorySettings
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import open_repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import gaps, inventory
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.answer import Found
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.fetch import fetch
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.health import (
    ArchiveState,
    Limits,
    RepositoryView,
    ServerView,
    judge,
)

POLL_SECONDS = 0.1


def read(config: Config, expected_command: str, limits: Limits | None = None) -> ArchiveState:
    """Ask the server and every repository. Neither being away is an error: it is part of the state."""
    cluster = clusters.read(config)
    view: ServerView | None = None
    try:
        with server.connected(config) as connection:
            view = server.view(connection)
    except OperationFailed:
        pass  # judged as a silent server
    repositories = tuple(_repository(settings, config, cluster) for settings in config.repositories)
    return judge(view, repositories, expected_command=expected_command, limits=limits or Limits(), now=time.time())


def _repository(settings: RepositorySettings, config: Config, cluster: Cluster) -> RepositoryView:
    try:
        repository = open_repository(settings, config)
        repository.check_system(cluster.system, cluster.major)
        archive = inventory.read(repository, cluster.system, cluster.segment_size)
    except FleetError as error:
        return RepositoryView(settings.name, error=str(error))
    timelines = gaps.report(archive.held, time.time(), archive.horizon)
    newest = max(archive.received, default=None)
    length, arrived = archive.received[newest] if newest else (0, None)
    received = Lsn(newest.start + length) if newest else None
    timeline = newest.timeline if newest else None
    horizon = {str(one): number for one, number in archive.horizon.items()}
    return RepositoryView(
        settings.name, repository.store.address, None, timelines, received, arrived, timeline, horizon
    )


def prove(config: Config, *, timeout_seconds: float) -> dict[str, float | str]:
    """Force a segment switch, wait until the segment is in every repository, and read it back from each.

    Returns:
        `segment`, and seconds until it was archived and fetched: `archived_seconds`, `fetched_seconds`.

    Raises:
        OperationFailed: it did not arrive in time, or did not come back as it went.
    """
    cluster = clusters.read(config)
    started = time.monotonic()
    with server.connected(config) as connection:
        name = server.switch_segment(connection)
        if name is None:
            raise OperationFailed("This server is a standby; the way of its WAL is proven on the primary")
        while not _archived(connection, name):
            if time.monotonic() - started > timeout_seconds:
                view = server.view(connection)
                raise OperationFailed(
                    f"{name} was not archived within {timeout_seconds:g} s; last archived is {view.last_archived_wal}, "
                    f"last failed {view.last_failed_wal}",
                    remedy="The reason is in PostgreSQL's log.",
                )
            time.sleep(POLL_SECONDS)
    archived = time.monotonic()
    for settings in config.repositories:
        with tempfile.TemporaryDirectory(prefix="dbops-prove-") as directory:
            fetched = fetch([open_repository(settings, config)], cluster, name, Path(directory) / name)
        if fetched.found is not Found.DELIVERED:
            reason = "; ".join(fetched.messages) or fetched.found.value
            raise OperationFailed(f"{name} does not come back from repository {settings.name}: {reason}")
    return {
        "segment": name,
        "archived_seconds": round(archived - started, 3),
        "fetched_seconds": round(time.monotonic() - archived, 3),
    }


def _archived(connection: object, name: str) -> bool:
    last = server.view(connection).last_archived_wal
    return last is not None and last[:24] >= name
