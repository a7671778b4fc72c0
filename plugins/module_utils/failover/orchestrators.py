# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Members that something else manages: two managers of one cluster would undo each other's work, or promote twice."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts

# What MemberFacts.orchestrators names -> (the manager's name, its command per operation of ours).
_MANAGERS: dict[str, tuple[str, dict[str, str]]] = {
    "patroni": (
        "Patroni",
        {
            "switchover": "patronictl switchover",
            "failover": "patronictl failover",
            "rejoin": "patronictl reinit <cluster> <member>",
        },
    ),
    "repmgrd": (
        "repmgr",
        {
            "switchover": "repmgr standby switchover (on the standby)",
            "failover": "repmgr standby promote (on the standby)",
            "rejoin": "repmgr node rejoin --force-rewind (on the old primary)",
        },
    ),
    "pg_autoctl": (
        "pg_auto_failover",
        {
            "switchover": "pg_autoctl perform switchover",
            "failover": "pg_autoctl perform failover",
            "rejoin": "pg_autoctl enable maintenance, then pg_autoctl disable maintenance (on the member)",
        },
    ),
    "pacemaker": (
        "Pacemaker",
        {
            "switchover": "pcs resource move <resource> --promoted",
            "failover": "pcs resource move <resource> --promoted",
            "rejoin": "pcs resource cleanup <resource>",
        },
    ),
}
_ALIASES = {
    "repmgr": "repmgrd",
    "pgautofailover": "pg_autoctl",
    "pg_auto_failover": "pg_autoctl",
    "corosync": "pacemaker",
}


def managed_by_others(members: Iterable[MemberFacts], operation: str) -> Refused | None:
    """The refusal for a cluster that another manager runs, or None.

    Args:
        members: facts that were read on the hosts themselves; only these name orchestrators.
        operation: "switchover", "failover" or "rejoin"; chooses the command that the remedy names.
    """
    for member in members:
        for unit in member.orchestrators:
            key = unit.removesuffix(".service").split("@")[0].lower()
            name, commands = _MANAGERS.get(_ALIASES.get(key, key), (unit, {}))
            command = commands.get(operation)
            return Refused(
                f"{name} manages this cluster ({unit} is active)",
                host=member.name,
                remedy=f"Use it instead: {command}." if command else f"Use {name}'s own command for a {operation}.",
                code="managed_by_others",
                manager=name,
            )
    return None


def refuse_managed(members: Iterable[MemberFacts], operation: str) -> None:
    """Raise the refusal of `managed_by_others`, where there is one."""
    refusal = managed_by_others(members, operation)
    if refusal:
        raise refusal
