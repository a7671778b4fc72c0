# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The replicas and the old primary as an unplanned failover reaches them: SQL over TCP, from a replica's host."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover.sight import probe
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_pooler import PoolerProcess
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_remote import Remote
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import Access, Place, PoolerPlace
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_ports import PortError
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import FailoverRequest, Member
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Target
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.conninfo import between_members
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.read import read_session


def reach(member: Member) -> str:
    """The conninfo of a member."""
    return member.conninfo or between_members(member.address, member.port, application_name="dbops.fleet failover")


def console_of(place: PoolerPlace) -> Endpoint:
    """Its admin console, with the fleet's account; on a unix socket nothing but the operating system's user counts."""
    if place.host.startswith("/"):
        return Endpoint(place.name, place.host, place.port)
    return Endpoint(
        place.name,
        place.host,
        place.port,
        user=Access.console_user,
        passfile=Access.passfile,
        sslmode=Access.sslmode,
        sslrootcert=Access.sslrootcert,
        process=place.process,
    )


class RemoteReplica(Remote):
    """See `unplanned_ports.Replica`. One caller at a time: a session carries one query."""

    def __init__(self, member: Member) -> None:
        super().__init__(Place(member.name, member.address, member.port, member.slot), reach(member))
        self._lock = threading.RLock()

    def _sql(self, work: Callable[..., Any], timeout: float = 5.0) -> Any:
        with self._lock:
            return super()._sql(work, timeout)

    def facts(self) -> MemberFacts:
        """Its state now."""
        known = MemberFacts(self.place.name, self.place.address, self.place.port, state="running")
        try:
            return self._sql(lambda connection: read_session(connection, known, timeout=3.0))  # type: ignore[no-any-return]
        except PortError as error:
            return MemberFacts(self.place.name, self.place.address, self.place.port, error=str(error))

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """ALTER SYSTEM and reload, and wait: a session sees new values only after the postmaster has read the files."""
        super().configure(settings)
        wanted = {name: value for name, value in settings.items() if value is not None}
        deadline = time.monotonic() + 3.0
        while any(self.setting(name) != value for name, value in wanted.items()):
            if time.monotonic() >= deadline:
                raise PortError(f"{self.place.name}: {', '.join(wanted)} is not in force 3 s after the reload")
            time.sleep(0.005)

    def create_slot(self, name: str) -> bool:  # type: ignore[override]
        """Make a physical slot; False where it exists."""
        if name in self.slots():
            return False
        super().create_slot(name)
        return True

    def confirmed(self, position: Lsn) -> Sequence[str]:
        """Application names of its standbys that have the log up to there on their disks."""
        query = "SELECT application_name FROM pg_stat_replication WHERE flush_lsn >= %s::pg_lsn"
        return [row[0] for row in self._sql(lambda connection: connection.execute(query, (str(position),)).fetchall())]


class RealWorld:
    """See `unplanned_ports.World`."""

    def __init__(self, request: FailoverRequest) -> None:
        self.request = request
        self._replicas = {member.name: RemoteReplica(member) for member in request.replicas}
        self._poolers = {place.name: PoolerProcess(place, console_of(place)) for place in request.poolers}

    def replica(self, name: str) -> RemoteReplica:
        """By inventory name."""
        return self._replicas[name]

    def pooler(self, name: str) -> PoolerProcess:
        """By the request's name."""
        return self._poolers[name]

    def primary_answers(self) -> str | None:
        """SQL or at least the protocol; a frozen server whose kernel accepts connections shows no life."""
        old = self.request.old
        target = Target(old.name, old.address, old.port, reach(old))
        seen = probe("the worker", "replica", target, timeout=0.5)
        if seen.answer not in ("sql", "protocol"):
            return None
        return "as a standby" if seen.in_recovery else seen.error or "it takes queries"

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def gather(self, calls: Sequence[Callable[[], Any]], timeout: float) -> list[Any]:
        """Every call in a thread of its own. One that hangs is left to its own timeouts."""
        if not calls:
            return []
        pool = ThreadPoolExecutor(max_workers=len(calls))
        futures = [pool.submit(call) for call in calls]
        wait(futures, timeout)
        pool.shutdown(wait=False, cancel_futures=True)
        return [_outcome(future, timeout) for future in futures]

    def close(self) -> None:
        """Close all sessions."""
        for replica in self._replicas.values():
            replica.close()


def _outcome(future: Future[Any], timeout: float) -> Any:
    if not future.done():
        return PortError(f"no answer within {timeout:g} s")
    return future.exception() or future.result()
