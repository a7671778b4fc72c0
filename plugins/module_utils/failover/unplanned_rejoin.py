# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What module `replica_rejoin` does with its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover import rejoin as rejoining
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_order import Rejoin
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_params import instance_here, record_of
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Target
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.conninfo import REPLICATION, between_members


def rejoin(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Module `replica_rejoin`."""
    member, primary = record_of(Target, params["member"]), record_of(Target, params["primary"])
    order = Rejoin(
        params["cluster"],
        member.name,
        member.address,
        instance_here(params["version"], params["name"]),
        primary,
        between_members(primary.address, primary.port, application_name=member.name, user=REPLICATION, dbname=None),
        slot=params["slot"],
        upstream=record_of(Target, params["upstream"]) if params["upstream"] else None,
        member_slots=tuple(params["member_slots"]),
        consent=rejoining.consent_of(params, member.name),
        timeout=params["timeout"],
        lowered_synchronous=params["lowered_synchronous"],
        synchronous_before=params["synchronous_before"],
        members=tuple(record_of(Target, place) for place in params["members"]),
    )
    return rejoining.rejoin(order, check_mode)
