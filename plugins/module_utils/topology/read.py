# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what a member is right now: one or two SQL round trips, on this host or from another one.

What the remote account (fleet_operator, or anyone with pg_monitor) does not see and these facts therefore lack:
the control file as such, active systemd units, and the history of timelines, unless it may call pg_read_binary_file
(fleet_operator may, for pg_rewind). Without pg_monitor at all there are no senders' positions, no primary_conninfo.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.conninfo import between_members
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.control import ControlData
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory, history_file_name
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.query import facts_from_answer, facts_query

if TYPE_CHECKING:
    import psycopg

_STATE_OF_REASON = {
    "refused": "stopped",
    "starting": "starting",
    "timeout": "unreachable",
    "unresolved": "unreachable",
    "rejected": "unreachable",
}


@dataclass(frozen=True)
class Address:
    """Where to read a member from.

    Attributes:
        conninfo: libpq string without password; None takes the fleet's account and certificates.
    """

    name: str
    address: str
    port: int = 5432
    conninfo: str | None = None


def read_local(instance: Instance, name: str, address: str) -> MemberFacts:
    """The facts of an instance on this host, with its control file.

    Args:
        name, address: how the cluster calls this member.

    Raises:
        FleetError: the server runs and python3-psycopg is missing, or pg_controldata cannot be run.
    """
    control = instance.control_data()
    facts = MemberFacts(name=name, address=address, port=instance.port, state="absent", control=control)
    if control is not None:
        facts = replace(facts, state="stopped", **_from_control(instance, control))
    if not instance.running:
        return facts
    try:
        connection = session.connect_local(instance.port, instance.socket_directory)
    except session.NotConnected as error:
        state = {"starting": "starting", "refused": "starting"}.get(error.reason, "unreachable")
        return replace(facts, state=state, error=str(error))
    with connection:
        return read_session(connection, replace(facts, state="running"), timeout=10.0)


def read_remote(
    name: str,
    address: str,
    port: int = 5432,
    conninfo: str | None = None,
    *,
    connect_timeout: float = 3.0,
    timeout: float = 5.0,
) -> MemberFacts:
    """The facts of a member as seen over the network.

    Never raises for a server that does not answer: state and error say it. "stopped" then means that the host answers
    and nobody listens on the port; the host's firewall can look the same.

    Args:
        conninfo: libpq string without password; None takes the fleet's account and certificates.
        connect_timeout: seconds for the session to open.
        timeout: seconds for everything after that.

    Raises:
        FleetError: python3-psycopg is missing here.
    """
    facts = MemberFacts(name=name, address=address, port=port)
    where = conninfo or between_members(address, port, application_name="dbops.fleet")
    try:
        connection = session.connect_remote(where, connect_timeout=connect_timeout)
    except session.NotConnected as error:
        return replace(facts, state=_STATE_OF_REASON[error.reason], error=str(error))
    with connection:
        return read_session(connection, replace(facts, state="running"), timeout=timeout)


def read_cluster(
    members: Sequence[Address], *, connect_timeout: float = 3.0, timeout: float = 5.0
) -> tuple[MemberFacts, ...]:
    """All members at the same time, in the order given; takes as long as the slowest, at most the two timeouts."""
    if not members:
        return ()

    def read(member: Address) -> MemberFacts:
        return read_remote(
            member.name,
            member.address,
            member.port,
            member.conninfo,
            connect_timeout=connect_timeout,
            timeout=timeout,
        )

    session.require_psycopg()
    with ThreadPoolExecutor(max_workers=len(members)) as pool:
        return tuple(pool.map(read, members))


def read_session(connection: psycopg.Connection[Any], known: MemberFacts, *, timeout: float) -> MemberFacts:
    """The facts of the server behind an open session; `known` gives name, address and what is known already.

    For callers who keep a session open and look again and again. A session that breaks gives state "unreachable".
    """
    driver = session.require_psycopg()
    try:
        with session.deadline(connection, timeout):
            (row,) = connection.execute(facts_query(connection.info.server_version // 10000)).fetchall()
            answer = row[0]
            facts = facts_from_answer(known, answer, now=time.time())
            return replace(facts, history=_history(connection, facts, answer["may_read_files"]))
    except driver.Error as error:
        text = " ".join(str(error).split())
        return replace(known, state="unreachable", error=f"the session broke while reading facts: {text}")


def _history(connection: psycopg.Connection[Any], facts: MemberFacts, may_read_files: bool) -> TimelineHistory | None:
    if facts.timeline == 1:
        return TimelineHistory.first()
    if facts.timeline is None or not may_read_files:
        return None
    row = connection.execute(
        "SELECT convert_from(pg_read_binary_file(%s, 0, 1048576, true), 'UTF8')",
        (f"pg_wal/{history_file_name(facts.timeline)}",),
    ).fetchone()
    return _parsed(facts.timeline, row[0] if row else None)


def _parsed(timeline: int, text: str | None) -> TimelineHistory | None:
    try:
        return None if text is None else TimelineHistory.parse(timeline, text)
    except ValueError:
        return None


def _from_control(instance: Instance, control: ControlData) -> Mapping[str, Any]:
    """What a control file says of a server that does not answer. Its timeline may be older than its last WAL."""
    timeline = max(control.timeline, control.min_recovery_timeline)
    first = TimelineHistory.first() if timeline == 1 else None
    return {
        "system_identifier": control.system_identifier,
        "timeline": timeline,
        "history": first or _parsed(timeline, instance.history_text(timeline)),
    }
