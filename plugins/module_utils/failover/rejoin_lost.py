# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps and counts what a diverged member wrote beyond the fork, before it is given up (see `lost_rows.py`)."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import json
import shutil
import subprocess
import time
from dataclasses import replace

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.failover.lost_rows import Lost, LostRows, count
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_order import Rejoin, connect
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import conninfo as libpq
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.wal import (
    DEFAULT_SEGMENT_SIZE,
    is_segment_name,
    segment_name,
)


def save_lost(order: Rejoin, timeline: int, fork: Lsn) -> Lost:
    """Count what is beyond the fork, and keep its write-ahead log and all that was never archived."""
    instance = order.instance
    # A run that is killed and run again may come here twice in a second.
    now = f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09}"
    place = order.lost_directory / f"{order.cluster}-{order.name}-{now}"
    place.mkdir(parents=True, mode=0o700)
    wal = instance.data_directory / "pg_wal"
    command = [str(instance.binaries / "pg_waldump"), f"--path={wal}", f"--timeline={timeline}", f"--start={fork}"]
    text = place / "pg_waldump.txt"
    with text.open("w") as output:
        subprocess.run(command, stdout=output, stderr=subprocess.DEVNULL, env={"LC_ALL": "C"}, check=False)
    ready = {path.name.removesuffix(".ready") for path in (wal / "archive_status").glob("*.ready")}
    control = instance.control_data()
    from_here = segment_name(timeline, fork, control.wal_segment_size if control else DEFAULT_SEGMENT_SIZE)
    for segment in sorted(path for path in wal.iterdir() if is_segment_name(path.name)):
        if segment.name in ready or from_here <= segment.name < f"{timeline + 1:08X}":
            shutil.copy2(segment, place / segment.name)
    with text.open() as lines:
        lost = count(lines)
    lost = replace(lost, tables=_named(order, lost.tables), saved=str(place))
    (place / "summary.json").write_text(json.dumps(lost.to_dict(), indent=2))
    return lost


def _named(order: Rejoin, tables: tuple[LostRows, ...]) -> tuple[LostRows, ...]:
    """Names of the relations, asked of the primary, which has the same files under the same numbers."""
    named = []
    driver = session.require_psycopg()
    for table in tables:
        name = None
        try:
            with connect(order) as connection:
                row = connection.execute("SELECT datname FROM pg_database WHERE oid = %s", (table.database,)).fetchone()
            if row:
                base = libpq.parse(
                    order.primary.conninfo
                    or libpq.between_members(
                        order.primary.address, order.primary.port, application_name="dbops.fleet rejoin"
                    )
                )
                with session.connect_remote(libpq.build({**base, "dbname": row[0]})) as inside:
                    found = inside.execute(
                        "SELECT pg_filenode_relation(0, %s)::regclass::text", (table.relation,)
                    ).fetchone()
                name = f"{row[0]}: {found[0]}" if found and found[0] else None
        except (driver.Error, FleetError, ValueError):
            # A name is a convenience: without CONNECT on that database the numbers have to do.
            name = None
        named.append(replace(table, name=name))
    return tuple(named)
