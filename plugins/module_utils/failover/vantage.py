# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one host sees of a cluster, as records. `sight.py` fills them, `unplanned_plan.py` decides from them."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.dbops.fleet.plugins.module_utils.failover.confirm import Probe, Stream
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts


@dataclass(frozen=True)
class Target(Record):
    """A member to look at.

    Attributes:
        conninfo: libpq string without password; None takes the fleet's account and certificates.
    """

    name: str
    address: str
    port: int = 5432
    conninfo: str | None = None


@dataclass(frozen=True)
class Sight(Record):
    """What one host sees.

    Attributes:
        vantage: its inventory name, or "controller".
        kind: "controller", "replica" (any database host) or "pooler".
        probes: by member, without itself.
        member: the instance on this host; None where there is none to be.
        stream: its walreceiver, with `from_primary` not judged yet; sender_host and sender_port are in `member`.
        wal_end: end of the write-ahead log on its disk, where SQL does not tell (see `wal_end.py`).
        promoting, promoting_from: candidate and lost primary of an unfinished failover of this cluster whose promotion
            was begun, by a journal here.
        unfinished: lost primary of a failover of this cluster that ended neither with a promotion nor with everything
            put back, by a journal here.
        last_failover: seconds since 1970 of the end of the cluster's last failover, by the record here.
        fenced: this host's instance was fenced and has not rejoined since.
        lowered_synchronous, synchronous_before: what the last failover made of synchronous_standby_names, by a journal
            here, because too few standbys were left.
        unit: of systemd, of the instance on this host.
        free_mb: MiB that are free for its data directory.
        standby_signal: this host's instance is marked to start as a standby.
    """

    vantage: str
    kind: str
    probes: tuple[tuple[str, Probe], ...] = ()
    member: MemberFacts | None = None
    stream: Stream | None = None
    wal_end: Lsn | None = None
    promoting: str | None = None
    promoting_from: str | None = None
    last_failover: float | None = None
    fenced: bool = False
    lowered_synchronous: str | None = None
    synchronous_before: str | None = None
    unit: str | None = None
    free_mb: int | None = None
    standby_signal: bool = False
    unfinished: str | None = None
