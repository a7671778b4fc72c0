# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clusters that something else manages are refused, with the command that does it there."""

from __future__ import annotations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover.orchestrators import (
    managed_by_others,
    refuse_managed,
)
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts


def member(*units: str) -> MemberFacts:
    return MemberFacts("n2", "192.0.2.2", orchestrators=units)


@pytest.mark.parametrize("operation", ["switchover", "failover", "rejoin"])
@pytest.mark.parametrize(
    ("unit", "manager", "command"),
    [
        ("patroni", "Patroni", "patronictl"),
        ("patroni@17-main.service", "Patroni", "patronictl"),
        ("repmgrd", "repmgr", "repmgr "),
        ("pg_autoctl", "pg_auto_failover", "pg_autoctl"),
        ("pgautofailover.service", "pg_auto_failover", "pg_autoctl"),
        ("pacemaker", "Pacemaker", "pcs resource"),
        ("corosync.service", "Pacemaker", "pcs resource"),
    ],
)
def test_each_is_recognised_and_its_own_command_named(unit: str, manager: str, command: str, operation: str) -> None:
    with pytest.raises(Refused, match=f"{manager} manages this cluster") as refused:
        refuse_managed([MemberFacts("n1", "192.0.2.1"), member(unit)], operation)
    assert refused.value.host == "n2"
    assert command in str(refused.value.remedy)
    assert refused.value.details["code"] == "managed_by_others"


def test_one_that_nobody_knows_is_refused_as_well() -> None:
    found = managed_by_others([member("stolon-keeper")], "failover")
    assert found is not None
    assert "stolon-keeper" in str(found)


def test_without_any_nothing_is_refused() -> None:
    assert managed_by_others([member(), member()], "failover") is None
