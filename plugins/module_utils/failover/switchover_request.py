# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a switchover is asked to do: the order that goes from the module to the worker, and into the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.record import Record


@dataclass(frozen=True)
class Budgets(Record):
    """How long each part may take, in seconds.

    Attributes:
        drain: until every pooler has no server connection in use any more.
        pause: from the first PAUSE until the candidate is asked to promote; afterwards nothing can be undone.
        hold: until the candidate has the end of the shutdown checkpoint (within `pause`).
        promote: until the candidate is out of recovery; nothing else can be done but wait.
        catch_up: before the pause, until the candidate has nearly everything.
        attach: until enough synchronous standbys stream from the new primary, before clients are let in.
        follow: after the pause, until the old primary and the other replicas stream from the new one.
        start: until a server that is started takes sessions (crash recovery in a rollback can be long).
    """

    drain: float = 2.0
    pause: float = 5.0
    hold: float = 2.0
    promote: float = 60.0
    catch_up: float = 60.0
    attach: float = 1.0
    follow: float = 60.0
    start: float = 300.0


@dataclass(frozen=True)
class Place(Record):
    """A member of the cluster.

    Attributes:
        name: the inventory's name, and its application_name.
        address: where the others reach it.
        slot: name of the replication slot that it uses at its primary; None without slots.
    """

    name: str
    address: str
    port: int = 5432
    slot: str | None = None


@dataclass(frozen=True)
class PoolerPlace(Record):
    """One PgBouncer process.

    Attributes:
        name: for messages, such as "pool1:6432".
        host: address or socket directory of its admin console.
        databases: the entries that have to follow the primary.
        process: its socket directory, where several processes share the port; else None.
    """

    name: str
    host: str
    port: int
    databases: tuple[str, ...] = ()
    process: str | None = None


@dataclass(frozen=True)
class SwitchoverRequest(Record):
    """One switchover.

    Attributes:
        operation: its id, also the journal's name.
        cluster: the cluster's name.
        old: the primary, on whose host the worker runs.
        new: the candidate.
        siblings: every other replica that is to follow the new primary.
        timeline: the timeline the cluster is on.
        synchronous: `synchronous_standby_names` of the new primary where it has to change, else None.
        required_standbys: how many synchronous standbys must stream before commits are confirmed.
        terminate_writers: end transactions of clients that do not come through a pooler, rather than give up.
    """

    operation: str
    cluster: str
    old: Place
    new: Place
    timeline: int
    siblings: tuple[Place, ...] = ()
    poolers: tuple[PoolerPlace, ...] = ()
    synchronous: str | None = None
    required_standbys: int = 0
    terminate_writers: bool = False
    budgets: Budgets = Budgets()

    def members(self) -> tuple[Place, ...]:
        """All members, the old primary first."""
        return (self.old, self.new, *self.siblings)

    def followers(self) -> tuple[Place, ...]:
        """The new primary's replicas-to-be, the old primary first."""
        return (self.old, *self.siblings)


@dataclass(frozen=True)
class Access(Record):
    """How the worker reaches everything. Without secrets: passwords are in the passfile.

    Attributes:
        version, name, data_directory, binaries, config_directory, port, socket_directory, unit: of the old primary's
            instance, as in `postgres.instance.Instance`; empty text for what there is not.
        conninfos: by member, where it is not the fleet's own account (`conninfo.between_members`).
        console_user, passfile, sslmode, sslrootcert: for the admin consoles of the poolers.
        lock_directory: where the lock file is.
    """

    version: int
    name: str
    data_directory: str
    binaries: str
    config_directory: str = ""
    port: int = 5432
    socket_directory: str = "/var/run/postgresql"
    unit: str = ""
    conninfos: Mapping[str, str] = field(default_factory=dict)
    console_user: str = "fleet_operator"
    passfile: str = "/etc/dbops-fleet/pgpass"
    sslmode: str = "verify-full"
    sslrootcert: str = "/etc/dbops-fleet/ca.crt"
    lock_directory: str = "/run/dbops-fleet"
