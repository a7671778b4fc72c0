# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List R, interrupted: a rejoin is killed between any two of its acts, and run again.

A rejoin keeps no journal of steps: the state of the data directory and one mark (R06) say how far it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover import rejoin, rejoin_rewind
from ansible_collections.dbops.fleet.tests.faults.killed import killed_around
from ansible_collections.dbops.fleet.tests.faults.load import Load
from ansible_collections.dbops.fleet.tests.faults.pair import Pair, rejoined_servers
from ansible_collections.dbops.fleet.tests.integration.servers import Servers

# In their order, by the names of the functions that do them.
_ACTS = ["save_lost", "_make_slot", "_as_owner", "put_back", "_start_as_standby", "mask", "start_server", "_prove"]
_KILLS = [(way, when, act) for way in ("rewind", "clone") for act in _ACTS for when in ("before", "after")]
_NOT_THERE = {("clone", "before", "_as_owner"), ("clone", "after", "_as_owner")}
_QUICK = {("rewind", "after", "_as_owner"), ("rewind", "before", "start_server"), ("clone", "after", "put_back")}


def _caller(way: str, act: str) -> ModuleType:
    """The file that calls it first."""
    return rejoin_rewind if act == "_as_owner" or (way, act) == ("rewind", "put_back") else rejoin


@pytest.fixture
def servers() -> Iterator[Servers]:
    yield from rejoined_servers()


@pytest.mark.parametrize(
    ("way", "when", "act"),
    [
        pytest.param(*kill, marks=() if kill in _QUICK else pytest.mark.slow)
        for kill in _KILLS
        if kill not in _NOT_THERE
    ],
)
def test_r06_a_killed_rejoin_makes_no_second_primary_and_a_rerun_finishes(
    servers: Servers, tmp_path: Path, way: str, when: str, act: str
) -> None:
    tmp_path.chmod(0o755)
    pair = Pair(servers, tmp_path)
    pair.diverge()
    Load.make_table(pair.n2.conninfo())
    with Load([pair.n2.conninfo()], clients=4) as load:
        killed_around(when, _caller(way, act), act, lambda: pair.rejoin(rewind=way == "rewind"))
        assert pair.n2.value("SELECT NOT pg_is_in_recovery()")
        outcome = pair.rejoin()
    assert outcome.result["action"] in ("rewind", "clone", "start", "follow", "nothing"), outcome.result
    pair.assert_follows()
    found = load.report(pair.n2.conninfo())
    assert found.errors == []
    assert (found.lost, found.duplicated) == (0, 0)
