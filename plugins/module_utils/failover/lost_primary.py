# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which member was the primary, when it no longer says so itself. The inventory does not know; the replicas do."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover.synchronous import SyncRule
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.conninfo import parse
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts


def identify_primary(
    members: Iterable[MemberFacts], *, cluster: str, promoting: str | None = None, named: str | None = None
) -> str:
    """The member whose loss a failover is about; a running primary counts as well (it is then not lost).

    Args:
        members: facts of every member, unreachable ones too.
        cluster: for messages.
        promoting: the candidate of an earlier failover whose promotion was begun and never seen to end.
        named: `fleet_failover_primary`, the operator's word; it is believed only where nothing contradicts it, so also
            of a replica where every member is one.

    Raises:
        Refused: two members are primaries, or nothing tells which one was.
    """
    members = tuple(members)
    running = [member.name for member in members if member.is_primary]
    if len(running) > 1:
        raise Refused(
            f"{' and '.join(running)} both take writes in cluster {cluster}",
            remedy="Stop PostgreSQL at once on the one whose data do not count, then run: ansible-playbook "
            f"dbops.fleet.rejoin -e fleet_cluster={cluster}.",
            code="two_primaries",
            members=running,
        )
    if running:
        return running[0]
    if promoting is not None and any(member.name == promoting and not member.is_standby for member in members):
        return promoting
    possible = [member.name for member in members if not (member.is_standby or _was_standby(member))]
    if not possible and named in {member.name for member in members}:
        return str(named)
    upstreams = {name for member in members if member.is_standby for name in _upstream(member, members)}
    followed = [name for name in possible if name in upstreams]
    found = followed or _were_primaries(members) or possible
    if named is not None and named in possible and (named in found or not followed):
        return named
    if len(found) == 1:
        return found[0]
    said = f"replicas follow {', '.join(found)}" if len(found) > 1 else "every member runs as a replica"
    remedy = "Name it: -e fleet_failover_primary=<member>."
    if not possible:
        remedy += f" Where it answers as a replica, add -e fleet_failover_force={cluster} to have it fenced."
    raise Refused(
        f"it cannot be told which member of {cluster} was the primary: {said}",
        remedy=remedy,
        code="no_lost_primary",
        members=found,
    )


def _upstream(member: MemberFacts, members: tuple[MemberFacts, ...]) -> list[str]:
    """Members at the address that this standby's primary_conninfo names."""
    text = member.settings.get("primary_conninfo", "")
    try:
        values = parse(text)
    except ValueError:
        return []
    places = {(host, port) for host in (values.get("host"), values.get("hostaddr")) for port in (values.get("port"),)}
    return [
        other.name
        for other in members
        for host, port in places
        if host in (other.address, other.name) and int(port or 5432) == other.port
    ]


def _was_standby(member: MemberFacts) -> bool:
    """One that stopped as a standby: others may have followed it, and it was not the primary all the same."""
    states = ("shut down in recovery", "in archive recovery")
    return member.state == "stopped" and member.control is not None and member.control.state in states


def _were_primaries(members: tuple[MemberFacts, ...]) -> list[str]:
    """Stopped members whose control file is a primary's."""
    states = ("in production", "shut down", "shutting down", "in crash recovery")
    return [m.name for m in members if m.state == "stopped" and m.control is not None and m.control.state in states]


def last_known_rule(primary: str, members: Iterable[MemberFacts]) -> tuple[SyncRule | None, str | None]:
    """The old primary's synchronous_standby_names and synchronous_commit, from the settings of its replicas.

    The fleet sets both alike on every member, so that they can be known when the primary is gone.

    Returns:
        The rule without the primary itself, and synchronous_commit; None for each on which replicas do not agree.
    """
    names = {m.settings.get("synchronous_standby_names") for m in members if m.is_standby and m.name != primary}
    commits = {m.settings.get("synchronous_commit") for m in members if m.is_standby and m.name != primary}
    rule, commit = None, None
    if len(names) == 1 and None not in names:
        try:
            rule = SyncRule.parse(str(names.pop())).without(primary)
        except ValueError:
            rule = None
    if len(commits) == 1:
        commit = commits.pop()
    return rule, commit
