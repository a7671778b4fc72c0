# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How this host sees the members of a cluster: probes without credentials or with SQL, and its own instance.

One run per host, all hosts at once, gives `confirm.py` its vantage points and `election.py` its first positions.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover import journal
from ansible_collections.dbops.fleet.plugins.module_utils.failover.confirm import FRESH_SECONDS, Probe, Stream
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_engine import promoting, unfinished
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Sight, Target
from ansible_collections.dbops.fleet.plugins.module_utils.failover.wal_end import wal_end
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.conninfo import between_members
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.host import read_instance

STATE_DIRECTORY = Path("/var/lib/dbops-fleet/failover")

# SSLRequest of PostgreSQL's protocol: length 8, code 80877103. A server process answers one byte, S or N.
_SSL_REQUEST = bytes((0, 0, 0, 8, 4, 210, 22, 47))


def look(
    vantage: str,
    kind: str,
    targets: Sequence[Target],
    cluster: str,
    *,
    instance: Instance | None = None,
    address: str = "",
    timeout: float = 1.0,
    state_directory: Path = STATE_DIRECTORY,
) -> Sight:
    """Look at every member and at this host's own instance.

    Args:
        vantage, kind: see `Sight`. SQL is only tried by database hosts: the others have no account.
        targets: all members; the one that is called like the vantage point is left out.
        instance: this host's; None for poolers and the controller.
        address: of this host, for the facts.
        timeout: seconds per attempt of TCP and of the first answer.
    """
    first = _own(instance, vantage, address)
    others = [target for target in targets if target.name != vantage]
    with ThreadPoolExecutor(max_workers=max(1, len(others))) as pool:
        probes = tuple(pool.map(lambda target: (target.name, probe(vantage, kind, target, timeout=timeout)), others))
    second = _own(instance, vantage, address) if first is not None and first.is_standby else None
    if second is not None and any(seen.answer != "sql" for _name, seen in probes):
        # A message from just before the sender's death looks fresh for a moment.
        age = second.receiver.last_message_age_seconds if second.receiver else None
        if age is not None and age < FRESH_SECONDS and not _advanced(first, second):
            time.sleep(FRESH_SECONDS - age)
            second = _own(instance, vantage, address)
    end = None
    if instance is not None and first is not None:
        end = _end_on_disk(instance, second or first)
    newest = _newest(state_directory, cluster)
    return Sight(
        vantage,
        kind,
        probes,
        second or first,
        _stream(first, second),
        end,
        *_promoting(newest, second or first, state_directory),
        _last_failover(state_directory, cluster),
        (state_directory / "fenced.json").exists(),
        *_lowered(newest),
        instance.unit if instance is not None else None,
        _free_mb(instance),
        instance is not None and (instance.data_directory / "standby.signal").exists(),
        newest.request["request"]["old"]["name"] if newest is not None and unfinished(newest) else None,
    )


def probe(vantage: str, kind: str, target: Target, *, timeout: float = 1.0) -> Probe:
    """How far a connection to a member gets."""

    def seen(answer: str, error: object = None, in_recovery: bool | None = None) -> Probe:
        text = " ".join(str(error).split()) if error else None
        return Probe(vantage, kind, answer, in_recovery, text)

    try:
        connection = socket.create_connection((target.address, target.port), timeout)
    except ConnectionError as error:
        return seen("refused", error)
    except OSError as error:
        return seen("silent", error)
    try:
        with connection:
            connection.sendall(_SSL_REQUEST)
            if not connection.recv(1):
                return seen("refused", "it closes connections at once")
    except ConnectionError as error:
        return seen("refused", error)
    except OSError as error:
        return seen("accepts", error)
    if kind != "replica":
        return seen("protocol", "a server process answers")
    return _query(target, seen)


def _query(target: Target, seen: Callable[..., Probe]) -> Probe:
    where = target.conninfo or between_members(target.address, target.port, application_name="dbops.fleet")
    try:
        connection = session.connect_remote(where, connect_timeout=2.0)
    except session.NotConnected as error:
        answer = {"timeout": "accepts", "refused": "refused"}.get(error.reason, "protocol")
        return seen(answer, error)
    driver = session.require_psycopg()
    try:
        with connection, session.deadline(connection, 2.0):
            row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    except driver.Error as error:
        return seen("accepts", error)
    return seen("sql", None, bool(row and row[0]))


def _own(instance: Instance | None, name: str, address: str) -> MemberFacts | None:
    if instance is None:
        return None
    return replace(read_instance(instance, address).member, name=name, address=address)


def _stream(first: MemberFacts | None, second: MemberFacts | None) -> Stream | None:
    """The walreceiver at both looks. Its last message is younger at the second look if one came in between."""
    if first is None or not first.is_standby:
        return None
    latest = second if second is not None and second.is_standby else first
    now = latest.receiver
    if now is None:
        return Stream(first.name, latest_end_lsn=first.receiver.latest_end_lsn if first.receiver else None)
    return Stream(
        first.name,
        now.status,
        message_age_seconds=now.last_message_age_seconds,
        advanced=_advanced(first, second),
        latest_end_lsn=now.latest_end_lsn,
    )


def _advanced(first: MemberFacts | None, second: MemberFacts | None) -> bool:
    """A message came between the two looks: the last one is younger than it would have become."""
    if first is None or second is None or first.receiver is None or second.receiver is None:
        return False
    younger = (second.receiver.last_message_age_seconds or 0.0) < (first.receiver.last_message_age_seconds or 0.0)
    return younger or second.receiver.latest_end_lsn != first.receiver.latest_end_lsn


def _end_on_disk(instance: Instance, facts: MemberFacts) -> Lsn | None:
    """Only where it is not known otherwise: a server that is down, or a standby that has received nothing yet."""
    if facts.state == "running" and not (facts.is_standby and facts.receive_lsn is None):
        return None
    control = facts.control
    if facts.timeline is None or control is None:
        return None
    start = facts.replay_lsn or max(control.checkpoint_lsn, control.min_recovery_lsn)
    return wal_end(instance, facts.timeline, start)


def _free_mb(instance: Instance | None) -> int | None:
    if instance is None or not instance.data_directory.is_dir():
        return None
    return shutil.disk_usage(instance.data_directory).free // 2**20


def _newest(directory: Path, cluster: str) -> journal.Progress | None:
    """Of this cluster's failovers that this host carried out, the last one."""
    for path in reversed(journal.journals(directory)):
        progress = journal.Progress.of(journal.read(path))
        if progress.request.get("request", {}).get("cluster") == cluster:
            return progress
    return None


def _promoting(
    newest: journal.Progress | None, own: MemberFacts | None, directory: Path
) -> tuple[str | None, str | None]:
    """Also of a worker that came to its end where the playbook did not, and this host is the primary it made."""
    if newest is None:
        return None, None
    request = newest.request["request"]
    candidate = promoting(newest)
    if candidate is None and newest.end is not None and newest.end.get("state") in ("ok", "degraded"):
        told = _last(directory, request["cluster"]).get("operation", request["operation"])
        if told != request["operation"] and own is not None and own.is_primary:
            candidate = own.name if own.name == newest.state.get("candidate") else None
    return (candidate, request["old"]["name"]) if candidate else (None, None)


def _lowered(newest: journal.Progress | None) -> tuple[str | None, str | None]:
    """Only where it went as far as promoting: before that, the rule was put back."""
    if newest is None or "promote" not in newest.begun:
        return None, None
    return newest.state.get("lowered_synchronous"), newest.state.get("synchronous_before")


def last_failover_file(directory: Path, cluster: str) -> Path:
    """The record of a cluster's last failover, which the playbook leaves on every member that it reaches."""
    return directory / f"{cluster}-last.json"


def _last(directory: Path, cluster: str) -> dict[str, Any]:
    """The record; one without an operation where there is none, or none that can be read."""
    try:
        record: dict[str, Any] = json.loads(last_failover_file(directory, cluster).read_text())
    except FileNotFoundError:
        return {"operation": None}
    except (OSError, ValueError):
        return {}
    return record


def _last_failover(directory: Path, cluster: str) -> float | None:
    try:
        return float(_last(directory, cluster)["ended"])
    except (ValueError, KeyError, TypeError):
        return None
