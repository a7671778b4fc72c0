# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rejoin is asked to do, and where it keeps what it needs on the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import Source as CloneSource
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_plan import Consent
from ansible_collections.dbops.fleet.plugins.module_utils.failover.sight import STATE_DIRECTORY
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Target
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import conninfo as libpq
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance


@dataclass(frozen=True)
class Rejoin:
    """One rejoin.

    Attributes:
        primary: the member to follow, as the operator's account reaches it.
        streaming: primary_conninfo of the new replica, without password.
        slot: its slot at the primary; None for none.
        upstream: the replica that it streams from where the inventory says so; None where it is to follow the primary.
        clone_from: for a clone; None takes the fleet's account and certificates.
        member_slots: slots that this member had for others when it was the primary; dropped where nobody uses them.
        timeout: seconds until it streams and has replayed a fresh position.
        lowered_synchronous, synchronous_before: what the last failover made of synchronous_standby_names; taken back on
            all `members` when enough of them stream again.
        members: all of the cluster, for that.
        lost_directory: where the write-ahead log beyond the fork is saved.
    """

    cluster: str
    name: str
    address: str
    instance: Instance
    primary: Target
    streaming: str
    slot: str | None = None
    upstream: Target | None = None
    clone_from: CloneSource | None = None
    member_slots: tuple[str, ...] = ()
    consent: Consent = field(default_factory=Consent)
    timeout: float = 120.0
    lowered_synchronous: str | None = None
    synchronous_before: str = ""
    members: tuple[Target, ...] = ()
    state_directory: Path = STATE_DIRECTORY
    lost_directory: Path = Path("/var/lib/dbops-fleet/lost")

    @property
    def mark(self) -> Path:
        """There while a rewind works on the directory: what is found with it must never be started."""
        return self.state_directory / f"rewind-{self.instance.version}-{self.instance.name}.json"

    @property
    def kept(self) -> Path:
        """The member's own configuration, while the source's may be in its data directory."""
        return self.state_directory / f"kept-{self.instance.version}-{self.instance.name}"


def connect(order: Rejoin) -> Any:
    """A session at the primary, long enough for a CHECKPOINT."""
    place = order.primary
    where = place.conninfo or libpq.between_members(place.address, place.port, application_name="dbops.fleet rejoin")
    return session.connect_remote(where, statement_timeout=3600.0)
