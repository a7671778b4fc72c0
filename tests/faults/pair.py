# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two servers on loopback for rejoins: the old primary and the new one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import Source
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_host import stop_instance
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin import rejoin
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_order import Rejoin
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_plan import Consent
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Target
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.tests.faults.loopback import instance_of
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers


def rejoined_servers() -> Iterator[Servers]:
    """For a fixture: a rejoin starts servers by PostgreSQL's own tools, out of sight of `Servers`."""
    with Servers() as made:
        yield made
        for server in made.all:
            stop_instance(instance_of(server), 5.0)


def _target(server: Server) -> Target:
    return Target(server.name, server.address, server.port, server.conninfo())


class Pair:
    """An old primary `n1`, stopped or crashed, and the new primary `n2`."""

    def __init__(self, servers: Servers, root: Path) -> None:
        self.root = root
        # Enough for pg_rewind to find the last common checkpoint.
        self.n1 = servers.primary("n1", wal_keep_size="64MB")
        self.n1.sql("CREATE TABLE acked (id bigint PRIMARY KEY)")
        self.n2 = servers.replica("n2", of=self.n1, slot="n2")

    def diverge(self, *, lost: int = 10, crash: bool = True) -> None:
        """n2 loses the stream, n1 goes on, then n1 is gone and n2 takes over."""
        self.n1.sql("INSERT INTO acked SELECT generate_series(1, 100)")
        self.n2.wait_for_replay(self.n1)
        self.n2.sql("ALTER SYSTEM SET primary_conninfo = ''")
        self.n2.reload()
        self.n2.sql("SELECT pg_sleep(0.3)")
        if lost:
            self.n1.sql("INSERT INTO acked SELECT generate_series(1001, 1000 + %s)", lost)
        if crash:
            self.n1.kill()
        else:
            self.n1.stop()
        self.take_over()

    def take_over(self) -> None:
        """n2 becomes the primary and writes."""
        self.n2.sql("SELECT pg_promote()")
        self.n2.sql("INSERT INTO acked VALUES (5000)")

    def rejoin(
        self,
        *,
        check_mode: bool = False,
        member: Server | None = None,
        primary: Server | None = None,
        upstream: Server | None = None,
        **consent: Any,
    ) -> Outcome:
        """As the module does it."""
        server, primary = member or self.n1, primary or self.n2
        order = Rejoin(
            "orders",
            server.name,
            server.address,
            instance_of(server),
            _target(primary),
            f"host={primary.address} port={primary.port} user=postgres application_name={server.name}",
            slot=server.name,
            upstream=_target(upstream) if upstream else None,
            clone_from=Source(primary.address, primary.port, user="postgres", query_user="postgres", sslmode="disable"),
            member_slots=("n1", "n2", "n3"),
            consent=Consent(**consent),
            timeout=30.0,
            state_directory=self.root / "state",
            lost_directory=self.root / "lost",
        )
        return rejoin(order, check_mode)

    def assert_follows(self) -> None:
        """n1 has what n2 has, and nothing else."""
        self.n2.sql("INSERT INTO acked VALUES (6000)")
        self.n1.wait_for_replay(self.n2)
        query = "SELECT array_agg(id ORDER BY id) FROM acked"
        assert self.n1.value(query) == self.n2.value(query)
        assert self.n1.value("SELECT pg_is_in_recovery()")
