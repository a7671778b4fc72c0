# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the worker of an unplanned failover is asked to do. It goes into the journal's first line."""

from __future__ import annotations

from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.failover.election import DEFAULT_PRIORITY, Policy
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing import PoolerCut, Rung
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import PoolerPlace
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record


@dataclass(frozen=True)
class Member(Record):
    """A member of the cluster.

    Attributes:
        name: inventory name and application_name.
        slot: its replication slot at its primary; None without slots.
        priority: see `election.Standing`.
        on_disk_end: end of the write-ahead log on its disk, where somebody looked.
        conninfo: how to reach it, without password; None takes the fleet's account and certificates.
        free_mb: MiB free for its data directory, where somebody looked.
    """

    name: str
    address: str
    port: int = 5432
    slot: str | None = None
    priority: int = DEFAULT_PRIORITY
    on_disk_end: Lsn | None = None
    conninfo: str | None = None
    free_mb: int | None = None


@dataclass(frozen=True)
class Budgets(Record):
    """How long each part may take, in seconds.

    Attributes:
        freeze: until every walreceiver is gone.
        catch_up: until the candidate has what another replica holds.
        promote: until the candidate is out of recovery. It has to replay all that it received first.
        attach: until enough synchronous standbys stream from the new primary, before clients are let in.
    """

    freeze: float = 3.0
    catch_up: float = 60.0
    promote: float = 300.0
    attach: float = 5.0


@dataclass(frozen=True)
class FailoverRequest(Record):
    """One unplanned failover.

    Attributes:
        operation: its id, also the journal's name.
        old: the lost primary.
        replicas: all others, also those that do not answer.
        rungs: what the drivers of the fence found before.
        poolers_are_the_only_way_in: the operator's `fencing_poolers_are_the_only_way_in`.
        cuts: what was found at each pooler after clients were held; looked at only with that.
        cut_seconds: how much longer no pooler's timer lets its clients go, from the worker's start on.
        without_fence: the operator named the cluster in `fleet_failover_without_fence`.
        synchronous: last known synchronous_standby_names, without the old primary; None where not known.
        synchronous_commit: last known.
        last_known: furthest end of the old primary's write-ahead log that it told anybody.
        on_primary_disk: end of the write-ahead log on its disk, where its host could be reached.
        finish: the candidate is the primary already; go on with the failover that made it so, also one that ended.
        put_back: the lost primary answers again; take back what an interrupted failover has changed.
        replication_conninfo: for replicas whose primary_conninfo is not known any more, without host, port and
            application_name; None takes the fleet's account and certificates.
        poolers: whose clients are held, and which the worker can let go.
        staged: the member that the files of these poolers name, though they have not read them yet.
    """

    operation: str
    cluster: str
    old: Member
    replicas: tuple[Member, ...]
    rungs: tuple[Rung, ...] = ()
    policy: Policy = field(default_factory=Policy)
    poolers_are_the_only_way_in: bool = False
    cuts: tuple[PoolerCut, ...] = ()
    cut_seconds: float = 0.0
    without_fence: bool = False
    synchronous: str | None = None
    synchronous_commit: str | None = None
    last_known: Lsn | None = None
    on_primary_disk: Lsn | None = None
    finish: bool = False
    put_back: bool = False
    replication_conninfo: str | None = None
    poolers: tuple[PoolerPlace, ...] = ()
    staged: str | None = None
    budgets: Budgets = Budgets()

    def replica(self, name: str) -> Member:
        """The replica of this name."""
        return next(member for member in self.replicas if member.name == name)
