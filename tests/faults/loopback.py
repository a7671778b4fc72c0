# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster on loopback that is failed over as the playbook would do it: looks from every "host", plan, worker.

Each server counts as a host of its own. What needs a host (power, systemd, SSH) is tested on the test hosts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.failover import unplanned_worker
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing import CONFIRMED, Rung
from ansible_collections.dbops.fleet.plugins.module_utils.failover.sight import look
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_plan import (
    FailoverPlan,
    Orders,
    plan_failover,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import (
    Budgets,
    FailoverRequest,
    Member,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Sight, Target
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers

OFF = Rung("command", CONFIRMED, ("the state command says: is off",))


def instance_of(server: Server) -> Instance:
    """The instance of a test server."""
    return Instance(
        version=server.version,
        name=server.name,
        data_directory=server.data,
        binaries=server.binaries,
        port=server.port,
        socket_directory=str(server.socket_directory),
    )


class LoopbackCluster:
    """One primary `n1` and some replicas, with slots.

    Attributes:
        cut: names of members whose "hosts" nobody can look at (SSH is gone).
        state: directory of journals, by host.
    """

    def __init__(self, servers: Servers, root: Path, *, replicas: int = 2, **settings: str) -> None:
        self.root = root
        self.servers: dict[str, Server] = {"n1": servers.primary("n1", **settings)}
        for number in range(2, 2 + replicas):
            name = f"n{number}"
            self.servers[name] = servers.replica(name, of=self.servers["n1"], slot=name)
        self.priorities: dict[str, int] = {}
        self.cut: set[str] = set()
        self.operations = 0
        self.n1.sql("CREATE TABLE acked (id bigint PRIMARY KEY)")
        self.wait_for_replicas()

    @property
    def n1(self) -> Server:
        return self.servers["n1"]

    def wait_for_replicas(self) -> None:
        """All replicas have all that the primary has."""
        for server in list(self.servers.values())[1:]:
            server.wait_for_replay(self.n1)

    def state(self, name: str) -> Path:
        """A host's state directory."""
        directory = self.root / f"state-{name}"
        directory.mkdir(exist_ok=True)
        return directory

    def members(self) -> list[Member]:
        """As an inventory would have them."""
        return [
            Member(
                name,
                server.address,
                server.port,
                slot=name,
                priority=self.priorities.get(name, 100),
                conninfo=server.conninfo(),
            )
            for name, server in self.servers.items()
        ]

    def look(self) -> list[Sight]:
        """From every host that can be reached, and from the controller."""
        targets = [Target(name, s.address, s.port, s.conninfo()) for name, s in self.servers.items()]
        sights = []
        for name, server in self.servers.items():
            if name not in self.cut:
                directory = self.state(name)
                sights.append(
                    look(
                        name,
                        "replica",
                        targets,
                        "orders",
                        instance=instance_of(server),
                        address=server.address,
                        timeout=0.5,
                        state_directory=directory,
                    )
                )
        sights.append(look("controller", "controller", targets, "orders", timeout=0.5, state_directory=self.state("c")))
        return sights

    def plan(self, **orders: Any) -> FailoverPlan:
        """What the playbook would decide now."""
        return plan_failover("orders", self.members(), self.look(), Orders(**orders), now=time.time())

    def request(self, *rungs: Rung, **orders: Any) -> tuple[FailoverPlan, FailoverRequest | None]:
        """What the playbook would decide now, and the order that the worker would get."""
        plan = self.plan(**({"restart_crashed": False} | orders))
        if plan.action not in ("fail_over", "finish", "put_back") or plan.request is None:
            return plan, None
        self.operations += 1
        request = replace(
            plan.request,
            operation=f"{self.operations:04}",
            rungs=(*plan.request.rungs, *rungs),
            budgets=Budgets(promote=30.0, catch_up=20.0),
        )
        return plan, request

    def fail_over(
        self, *rungs: Rung, worker: str | None = None, meanwhile: Callable[[], object] | None = None, **orders: Any
    ) -> dict[str, Any]:
        """Plan and carry out, in a process of its own as on a host; `meanwhile` is done between the two."""
        plan, request = self.request(*rungs, **orders)
        if request is None:
            return {"state": "refused", "refusals": [refusal.code for refusal in plan.refusals], "plan": plan}
        if meanwhile:
            meanwhile()
        began = time.monotonic()
        directory = self.state(worker or plan.worker or "n2")
        end = unplanned_worker.fail_over(request, directory)
        return {**end, "seconds": time.monotonic() - began, "plan": plan}

    def primaries(self) -> list[str]:
        """Members that run and take writes."""
        found = []
        for name, server in self.servers.items():
            if server.running and server.value("SELECT NOT pg_is_in_recovery()"):
                found.append(name)
        return found
