# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the primary gone? Every mixture of what vantage points can see."""

from __future__ import annotations

from itertools import product

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.confirm import (
    ANSWERS,
    Confirmation,
    Probe,
    Stream,
    confirm,
)
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import STATES, MemberFacts

LIFE = ("sql", "protocol")


def judged(probes: list[Probe], streams: tuple[Stream, ...] = (), local: MemberFacts | None = None) -> Confirmation:
    return confirm("n1", probes, streams, local, cluster="orders")


def host(state: str) -> MemberFacts:
    return MemberFacts("n1", "192.0.2.1", state=state)


@pytest.mark.parametrize("state", [None, *STATES])
def test_any_sign_of_life_anywhere_refuses(state: str | None) -> None:
    streams = (None, Stream("n2"), Stream("n2", "streaming", advanced=True), Stream("n2", "streaming"))
    for controller, replica, pooler in product(ANSWERS, repeat=3):
        for stream in streams:
            probes = [
                Probe("controller", "controller", controller),
                Probe("n2", "replica", replica),
                Probe("p1", "pooler", pooler),
            ]
            verdict = judged(probes, (stream,) if stream else (), host(state) if state else None).verdict
            lives = (
                bool({controller, replica, pooler} & set(LIFE))
                or (stream is not None and stream.advanced)
                or state in ("running", "starting")
            )
            assert (verdict == "alive") == lives
            if not lives:
                assert verdict == ("crashed" if state == "stopped" else "gone")


def test_a_replica_that_still_receives_refuses_although_everything_else_is_cut_off() -> None:
    """F03: the controller lost the primary, its replicas did not."""
    result = judged([Probe("n2", "replica", "silent")], (Stream("n2", "streaming", message_age_seconds=0.2),))
    assert result.verdict == "alive"
    assert "n2 still receives" in result.reason
    assert "fleet_failover_force=orders" in (result.remedy or "")


def test_an_old_message_is_no_sign_of_life() -> None:
    assert judged(
        [Probe("n2", "replica", "silent")], (Stream("n2", "streaming", message_age_seconds=4.0),)
    ).allows_failover


def test_receiving_from_another_replica_says_nothing_about_the_primary() -> None:
    stream = Stream("n3", "streaming", from_primary=False, message_age_seconds=0.1, advanced=True)
    assert judged([Probe("n2", "replica", "silent")], (stream,)).verdict == "gone"


def test_the_controllers_view_alone_is_not_enough() -> None:
    result = judged([Probe("controller", "controller", "silent"), Probe("p1", "pooler", "silent")])
    assert result.verdict == "unclear"
    assert not result.allows_failover


def test_a_frozen_server_that_accepts_tcp_is_gone_and_marked_as_hung() -> None:
    result = judged([Probe("n2", "replica", "accepts")])
    assert result.verdict == "gone"
    assert result.hung


def test_the_furthest_known_end_comes_from_what_the_primary_told_its_standbys() -> None:
    streams = (
        Stream("n2", "waiting", latest_end_lsn=Lsn(100)),
        Stream("n3", "waiting", latest_end_lsn=Lsn(300)),
        Stream("n4", "streaming", from_primary=False, latest_end_lsn=Lsn(900)),
    )
    assert judged([Probe("n2", "replica", "silent")], streams).last_known_lsn == Lsn(300)


def test_every_observation_is_in_the_report() -> None:
    result = judged([Probe("n2", "replica", "refused", error="connection refused")], (Stream("n2"),), host("stopped"))
    assert [check.name for check in result.checks] == [
        "replica n2 asks n1",
        "replica n2 receives from n1",
        "host n1 over SSH",
    ]
    assert all(check.ok for check in result.checks)
    assert Confirmation.from_dict(result.to_dict()) == result
