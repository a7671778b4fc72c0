# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard against failing over in a loop."""

from __future__ import annotations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover.cooldown import refuse_within_cooldown


def test_the_first_failover_is_never_held_back() -> None:
    refuse_within_cooldown("orders", [], 1000.0)


def test_a_second_one_within_the_hour_is_refused_and_says_how_to_go_on() -> None:
    with pytest.raises(Refused, match="fleet_failover_ignore_cooldown=orders") as refused:
        refuse_within_cooldown("orders", [100.0, 5000.0], 5600.0)
    assert refused.value.details["seconds_left"] == 3000


def test_it_ends_after_the_hour_or_by_naming_the_cluster_or_by_switching_it_off() -> None:
    refuse_within_cooldown("orders", [5000.0], 8600.0)
    refuse_within_cooldown("orders", [5000.0], 5001.0, overridden_for="orders")
    refuse_within_cooldown("orders", [5000.0], 5001.0, cooldown_seconds=0)


def test_naming_another_cluster_does_not_end_it() -> None:
    with pytest.raises(Refused):
        refuse_within_cooldown("orders", [5000.0], 5001.0, overridden_for="billing")


def test_a_record_from_the_future_counts_as_just_now() -> None:
    with pytest.raises(Refused):
        refuse_within_cooldown("orders", [9000.0], 5000.0)
