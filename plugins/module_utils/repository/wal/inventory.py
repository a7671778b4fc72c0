# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that a repository holds of a cluster's WAL, in one listing."""

from __future__ import annotations

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ObjectCorrupt
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import Archive
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal import tail
from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Kind, Segment, kind_of


def read(repository: Repository, system: int, segment_size: int) -> Archive:
    """All whole segments with their time of arrival, and all timeline histories.

    Raises:
        StoreUnavailable: the listing did not come to its end.
        ObjectCorrupt: a history cannot be read.
    """
    held: dict[Segment, float] = {}
    histories: dict[int, TimelineHistory] = {}
    begun: dict[int, float] = {}
    for item in repository.store.list(layout.wal_prefix(system)):
        parsed = layout.parse_wal_object(item.key)
        if parsed is None:
            continue
        name, sha256 = parsed
        kind = kind_of(name)
        if kind is Kind.SEGMENT:
            held[Segment.parse(name, segment_size)] = item.modified
        elif kind is Kind.HISTORY:
            timeline = int(name[:8], 16)
            text = repository.decode(repository.store.read(item.key), item.key, sha256).decode("utf-8", "replace")
            try:
                histories[timeline] = TimelineHistory.parse(timeline, text)
            except ValueError as error:
                raise ObjectCorrupt(f"{repository.store.address}: {item.key}: {error}") from None
            begun[timeline] = item.modified
    horizon: dict[int, int] = {}
    # Sorted, so that of each timeline the highest mark is the last one.
    for item in repository.store.list(layout.horizon_prefix(system)):
        timeline_part, _slash, number = item.key.removeprefix(layout.horizon_prefix(system)).partition("/")
        if number:
            horizon[int(timeline_part, 16)] = int(number)
    parts = (tail.parse(item.key, item.modified, segment_size) for item in repository.store.list(tail.prefix(system)))
    received = tail.received(part for part in parts if part is not None)
    return Archive(held, histories, horizon, received, begun)
