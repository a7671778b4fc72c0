# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List F, interrupted: the worker is killed at each line of its journal, and the playbook is run again.

Power cuts, a killed ansible-playbook and a controller that lost its network: test_failover_hosts.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover import unplanned_worker
from ansible_collections.dbops.fleet.plugins.module_utils.failover.sight import last_failover_file
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_steps import STEPS
from ansible_collections.dbops.fleet.tests.faults.killed import killed_at_entry
from ansible_collections.dbops.fleet.tests.faults.load import Load
from ansible_collections.dbops.fleet.tests.faults.loopback import OFF, LoopbackCluster
from ansible_collections.dbops.fleet.tests.integration.servers import Servers, wait_until

_KILLS = [(event, step.name) for step in STEPS for event in ("begin", "done")]
_QUICK = {("done", "freeze"), ("begin", "promote"), ("done", "promote")}


@pytest.mark.parametrize(
    ("event", "step"), [pytest.param(*kill, marks=() if kill in _QUICK else pytest.mark.slow) for kill in _KILLS]
)
def test_f02_a_killed_worker_leaves_one_primary_at_most_and_a_rerun_finishes(
    tmp_path: Path, event: str, step: str
) -> None:
    with Servers() as servers:
        cluster = LoopbackCluster(servers, tmp_path, synchronous_standby_names="ANY 1 (n1, n2, n3)")
        Load.make_table(cluster.n1.conninfo())
        with Load([cluster.n1.conninfo()], clients=4) as load:
            wait_until(lambda: cluster.n1.value("SELECT count(*) > 200 FROM load"), "the clients to write")
            cluster.n1.kill()
            cluster.cut.add("n1")
            plan, request = cluster.request(OFF)
            assert request is not None, plan
            directory = cluster.state(str(plan.worker))
            killed_at_entry(event, step, lambda: unplanned_worker.work(request, directory))
            assert len(cluster.primaries()) <= 1
            end = cluster.fail_over(OFF)
        assert end["state"] == "ok", end
        assert end["next"].startswith("ansible-playbook dbops.fleet.rejoin")
        new = cluster.servers[end["record"]["candidate"]]
        assert cluster.primaries() == [new.name]
        found = load.report(new.conninfo())
        assert found.acknowledged > 200
        assert (found.lost, found.duplicated) == (0, 0)
        sibling = cluster.servers["n3" if new.name == "n2" else "n2"]
        sibling.wait_for_streaming()
        sibling.wait_for_replay(new)


def test_f22_an_interrupted_failover_whose_primary_comes_back_is_put_back(tmp_path: Path) -> None:
    """Frozen replicas follow nobody, and the commits of a synchronous cluster would wait for ever."""
    with Servers() as servers:
        cluster = LoopbackCluster(servers, tmp_path, synchronous_standby_names="ANY 1 (n1, n2, n3)")
        cluster.n1.freeze()
        cluster.cut.add("n1")
        plan, request = cluster.request()
        assert request is not None, plan
        directory = cluster.state(str(plan.worker))
        killed_at_entry("done", "freeze", lambda: unplanned_worker.work(request, directory))
        cluster.n1.thaw()
        cluster.cut.clear()
        end = cluster.fail_over()
        assert end["plan"].action == "put_back"
        assert (end["state"], end["problems"], end["next"]) == ("rolled_back", [], ""), end
        for name in ("n2", "n3"):
            cluster.servers[name].wait_for_streaming()
        cluster.n1.sql("INSERT INTO acked VALUES (1)")
        assert cluster.primaries() == ["n1"]
        # Nothing is left to put back.
        assert cluster.fail_over()["refusals"] == ["alive"]


def test_f02_a_worker_that_ended_alone_is_finished_and_not_taken_for_a_false_alarm(tmp_path: Path) -> None:
    """ansible-playbook was killed: nobody let clients go, and no record of the failover was left on the members."""
    with Servers() as servers:
        cluster = LoopbackCluster(servers, tmp_path)
        cluster.n1.kill()
        cluster.cut.add("n1")
        first = cluster.fail_over(OFF)
        assert first["state"] == "ok", first
        again = cluster.fail_over(OFF)
        assert again["plan"].action == "finish"
        assert again["state"] == "ok", again
        assert again["record"]["candidate"] == first["record"]["candidate"]
        assert again["record"]["new_timeline"] == first["record"]["new_timeline"]
        # With the record that the playbook leaves at its end, a primary that is well is a reason to refuse again.
        for name in ("n2", "n3"):
            record = last_failover_file(cluster.state(name), "orders")
            record.write_text(json.dumps({"operation": f"{cluster.operations:04}", "ended": 0.0}))
        assert "alive" in cluster.fail_over(OFF)["refusals"]
