# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a member becomes a replica again: nothing, follow, start, rewind, clone, refuse."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_plan import (
    Consent,
    Directory,
    RejoinPlan,
    Source,
    plan_rejoin,
)
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.control import ControlData
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.timeline import TimelineHistory
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts, WalReceiver

FORK = Lsn(5000)
FIRST = TimelineHistory.first()
SECOND = TimelineHistory(2, ((1, FORK),))
GIB = 1 << 30

SOURCE = MemberFacts(
    "n2",
    "192.0.2.2",
    state="running",
    in_recovery=False,
    system_identifier="7",
    version_num=170000,
    timeline=2,
    history=SECOND,
    current_lsn=Lsn(9000),
)
ORIGIN = Source(control_timeline=2, wal_bytes=GIB, data_bytes=5 * GIB)
ROOMY = Directory(wal_end=Lsn(7000), free_bytes=20 * GIB)


def control(state: str = "in production", **values: object) -> ControlData:
    fixed: dict[str, object] = {
        "system_identifier": "7",
        "state": state,
        "checkpoint_lsn": Lsn(4000),
        "redo_lsn": Lsn(4000),
        "timeline": 1,
        "prev_timeline": 1,
        "min_recovery_lsn": Lsn(0),
        "min_recovery_timeline": 0,
        "backup_start_lsn": Lsn(0),
        "backup_end_required": False,
        "full_page_writes": True,
        "data_checksums": True,
        "wal_log_hints": False,
        "wal_level": "replica",
        "wal_segment_size": 16 << 20,
        "control_version": 1300,
        "catalog_version": 1,
        "max_connections": 100,
        "max_worker_processes": 8,
        "max_wal_senders": 10,
        "max_prepared_transactions": 0,
        "max_locks_per_transaction": 64,
        "checkpoint_time": None,
    }
    return ControlData(**(fixed | values))  # type: ignore[arg-type]


def stopped(state: str = "in production", **values: object) -> MemberFacts:
    fixed: dict[str, object] = {
        "state": "stopped",
        "system_identifier": "7",
        "version_num": 170000,
        "timeline": 1,
        "history": FIRST,
        "control": control(state),
    }
    return MemberFacts("n1", "192.0.2.1", **(fixed | values))  # type: ignore[arg-type]


def running(**values: object) -> MemberFacts:
    fixed: dict[str, object] = {
        "state": "running",
        "in_recovery": True,
        "system_identifier": "7",
        "version_num": 170000,
        "timeline": 2,
        "history": SECOND,
        "receive_lsn": Lsn(9000),
        "replay_lsn": Lsn(9000),
        "control": control("in archive recovery"),
    }
    return MemberFacts("n1", "192.0.2.1", **(fixed | values))  # type: ignore[arg-type]


def plan(
    target: MemberFacts,
    directory: Directory = ROOMY,
    source: MemberFacts = SOURCE,
    origin: Source = ORIGIN,
    consent: Consent | None = None,
    upstream: MemberFacts | None = None,
) -> RejoinPlan:
    return plan_rejoin(target, source, directory, origin, consent or Consent(), cluster="orders", upstream=upstream)


def refused(*arguments: object, **options: object) -> Refused:
    with pytest.raises(Refused) as error:
        plan(*arguments, **options)  # type: ignore[arg-type]
    return error.value


STREAMING = WalReceiver("streaming", sender_host="192.0.2.2", sender_port=5432)


def test_a_healthy_standby_needs_nothing() -> None:
    """R16."""
    assert plan(running(receiver=STREAMING)).action == "nothing"
    assert not plan(running(receiver=STREAMING)).changes


@pytest.mark.parametrize("target", [running(), stopped("shut down")], ids=["runs", "stopped"])
def test_what_could_go_on_is_cloned_where_the_operator_wants_it(target: MemberFacts) -> None:
    directory = replace(ROOMY, wal_end=FORK)
    assert plan(target, directory).action in ("follow", "start")
    found = plan(target, directory, consent=Consent(rewind=False))
    assert (found.action, found.reason) == ("clone", "n1 has to be cloned: the operator wants a clone")
    assert plan(running(receiver=STREAMING), consent=Consent(rewind=False)).action == "nothing"


UPSTREAM = replace(running(receiver=STREAMING), name="n3", address="192.0.2.3")
CASCADED = running(receiver=WalReceiver("streaming", sender_host="192.0.2.3", sender_port=5432))


def test_a_cascaded_replica_stays_where_the_inventory_wants_it() -> None:
    found = plan(CASCADED, upstream=UPSTREAM)
    assert (found.action, found.reason) == ("nothing", "n1 streams from n3, as it is meant to")
    # A failover had it follow the primary: it is a replica, which is all that a rejoin is for.
    assert plan(running(receiver=STREAMING), upstream=UPSTREAM).action == "nothing"


@pytest.mark.parametrize(
    "upstream",
    [
        None,
        replace(UPSTREAM, address="192.0.2.4", name="n4"),
        replace(UPSTREAM, receiver=None),
        replace(UPSTREAM, receiver=replace(STREAMING, status="waiting")),
        replace(UPSTREAM, timeline=1, history=FIRST),
        replace(UPSTREAM, system_identifier="8"),
        replace(UPSTREAM, in_recovery=False, receiver=None),
        MemberFacts("n3", "192.0.2.3", state="unreachable"),
    ],
    ids=["not meant to", "another", "no receiver", "waits", "older", "foreign", "a primary", "unreachable"],
)
def test_a_replica_whose_upstream_is_no_way_to_the_primary_follows_the_primary(upstream: MemberFacts | None) -> None:
    assert plan(CASCADED, upstream=upstream).action == "follow"


def test_a_member_whose_log_the_primary_has_removed_is_cloned() -> None:
    """F17."""
    gone = replace(ORIGIN, oldest_segment="0000000000000001")
    found = plan(running(), origin=gone)
    assert (found.action, found.stop_first) == ("clone", True)
    assert "has removed the write-ahead log from 0/2328 on" in found.reason
    # The archive may have it; and what is in the primary's oldest segment is still there.
    assert plan(running(), origin=gone, directory=replace(ROOMY, restores=True)).action == "follow"
    assert plan(running(), origin=replace(ORIGIN, oldest_segment="0000000000000000")).action == "follow"
    full = refused(running(), origin=gone, directory=replace(ROOMY, free_bytes=GIB))
    assert full.details["code"] == "no_room"


@pytest.mark.parametrize(
    "receiver",
    [
        None,
        WalReceiver("waiting", sender_host="192.0.2.2", sender_port=5432),
        WalReceiver("streaming", sender_host="192.0.2.9", sender_port=5432),
        WalReceiver("streaming", sender_host="192.0.2.2", sender_port=5433),
    ],
)
def test_a_standby_of_the_same_line_that_does_not_stream_from_the_primary_is_pointed_there(
    receiver: WalReceiver | None,
) -> None:
    assert plan(running(receiver=receiver)).action == "follow"
    behind = running(timeline=1, history=FIRST, receive_lsn=FORK, replay_lsn=Lsn(10))
    assert plan(behind, Directory(wal_end=FORK)).action == "follow"


@pytest.mark.parametrize(
    ("state", "end", "action"),
    [
        ("shut down", FORK, "start"),
        ("shut down", FORK - 1, "start"),
        ("shut down", FORK + 1, "rewind"),
        ("in production", FORK, "start"),
        ("in production", FORK + 1, "rewind"),
        ("shut down in recovery", FORK, "start"),
        ("in archive recovery", FORK, "start"),
    ],
)
def test_a_rewind_is_made_only_when_the_log_goes_beyond_the_fork(state: str, end: int, action: str) -> None:
    """R01, R02."""
    result = plan(stopped(state), replace(ROOMY, wal_end=Lsn(end)))
    assert result.action == action
    if action == "rewind":
        assert (result.fork_timeline, result.fork, result.lost_bytes) == (1, FORK, end - FORK)
        assert result.fallback == "clone"


def test_equal_numbers_of_timelines_do_not_make_one_line() -> None:
    """It was promoted on its own, at another position, and became a timeline 2 too."""
    other = stopped(timeline=2, history=TimelineHistory(2, ((1, Lsn(4500)),)))
    result = plan(other, replace(ROOMY, wal_end=Lsn(6000)))
    assert result.action == "rewind"
    assert result.fork == Lsn(4500)


def test_without_checksums_and_hints_it_is_cloned() -> None:
    """R03."""
    result = plan(stopped(control=control(data_checksums=False)))
    assert result.action == "clone"
    assert "checksums" in result.reason
    assert plan(stopped(control=control(data_checksums=False, wal_log_hints=True))).action == "rewind"


def test_the_primary_is_checkpointed_first_when_its_control_file_is_on_the_old_timeline() -> None:
    """R04."""
    assert plan(stopped(), origin=replace(ORIGIN, control_timeline=1)).checkpoint_source
    assert not plan(stopped()).checkpoint_source


def test_an_interrupted_rewind_is_never_started_but_cloned() -> None:
    """R06."""
    assert plan(stopped(), replace(ROOMY, interrupted=True)).action == "clone"
    assert plan(stopped("shut down"), replace(ROOMY, interrupted=True, wal_end=FORK)).action == "clone"


@pytest.mark.parametrize(
    ("directory", "origin"),
    [
        (replace(ROOMY, unfit_files=("postgresql.auto.conf",)), ORIGIN),
        (replace(ROOMY, tablespaces=("ts=/srv/a",)), replace(ORIGIN, tablespaces=("ts=/srv/b",))),
        (replace(ROOMY, wal_end=None), ORIGIN),
        (replace(ROOMY, unreadable="it is cut short"), ORIGIN),
    ],
)
def test_what_pg_rewind_could_not_do_is_a_clone(directory: Directory, origin: Source) -> None:
    assert plan(stopped(), directory, origin=origin).action == "clone"


def test_full_page_writes_off_is_a_clone() -> None:
    assert plan(stopped(control=control(full_page_writes=False))).action == "clone"


def test_a_standby_that_received_too_much_but_did_not_replay_it_is_a_clone() -> None:
    target = stopped("shut down in recovery", control=control("shut down in recovery", min_recovery_lsn=Lsn(4000)))
    assert plan(target).action == "clone"
    target = stopped("shut down in recovery", control=control("shut down in recovery", min_recovery_lsn=Lsn(6000)))
    assert plan(target).action == "rewind"


def test_the_operator_may_want_a_clone() -> None:
    assert plan(stopped(), consent=Consent(rewind=False)).action == "clone"


def test_a_member_without_data_is_cloned() -> None:
    assert plan(MemberFacts("n1", "192.0.2.1", state="absent")).action == "clone"


def test_room_is_checked_before_anything_is_touched() -> None:
    """R15."""
    tight = replace(ROOMY, free_bytes=2 * GIB)
    result = plan(stopped(), tight)
    assert result.action == "rewind"
    assert result.fallback is None
    assert "MiB" in (result.fallback_refused or "")
    assert refused(stopped(), replace(tight, interrupted=True)).details["code"] == "no_room"
    assert refused(stopped(), replace(ROOMY, free_bytes=GIB)).details["code"] == "no_room"


def test_a_running_primary_is_refused_until_it_is_named() -> None:
    """R10."""
    target = running(in_recovery=False, timeline=1, history=FIRST, current_lsn=Lsn(7000), control=control())
    error = refused(target)
    assert error.details["code"] == "runs_as_primary"
    assert "fleet_rejoin_stop_primary=n1" in str(error)
    result = plan(target, consent=Consent(stop_primary=True))
    assert result.action == "rewind"
    assert result.stop_first


def test_foreign_data_are_refused_until_the_member_is_named() -> None:
    """R11."""
    assert refused(stopped(system_identifier="8")).details["code"] == "foreign"
    result = plan(stopped(system_identifier="8"), consent=Consent(replace_data=True))
    assert result.action == "clone"


@pytest.mark.parametrize(
    "target",
    [
        stopped(timeline=3, history=TimelineHistory(3, ((1, FORK), (2, Lsn(8000))))),
        stopped("shut down in recovery", timeline=3),
        running(timeline=3, receiver=STREAMING),
        running(timeline=3, history=None),
    ],
    ids=["its primary", "its replica", "a replica that streams", "a replica without history"],
)
def test_the_data_of_a_failover_are_not_overwritten_with_those_of_the_primary_from_before(target: MemberFacts) -> None:
    """R17. The old primary came back and takes writes; the others are a promotion further on."""
    for consent in (Consent(), Consent(rewind=False), Consent(stop_primary=True)):
        error = refused(target, consent=consent)
        assert error.details["code"] == "stale_primary"
        assert "stop PostgreSQL there" in str(error)
        assert "fleet_rejoin_replace=n1" in str(error)
    # Even then they are kept beside the clone.
    assert plan(target, consent=Consent(replace_data=True)).action == "clone"


def test_a_timeline_of_another_cluster_says_nothing() -> None:
    target = stopped(system_identifier="8", timeline=3)
    assert refused(target).details["code"] == "foreign"
    assert plan(target, consent=Consent(replace_data=True)).reason.endswith("of another cluster")


def test_only_a_running_primary_can_be_rejoined() -> None:
    """R12."""
    for source in (
        replace(SOURCE, in_recovery=True),
        replace(SOURCE, state="unreachable", in_recovery=None, error="no answer"),
        replace(SOURCE, state="stopped", in_recovery=None),
    ):
        assert refused(stopped(), source=source).details["code"] == "source_not_primary"


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (replace(SOURCE), "is_primary"),
        (replace(stopped(), state="unreachable"), "unreachable"),
        (replace(stopped(), state="starting"), "starting"),
        (stopped(version_num=150000), "other_version"),
        (stopped(orchestrators=("patroni",)), "managed_by_others"),
    ],
)
def test_what_cannot_be_rejoined_is_refused(target: MemberFacts, code: str) -> None:
    assert refused(target).details["code"] == code


def test_a_diverged_standby_that_runs_is_stopped_first() -> None:
    target = running(timeline=1, history=FIRST, receive_lsn=Lsn(7000), replay_lsn=Lsn(7000))
    diverged = replace(target, control=control("in archive recovery", min_recovery_lsn=Lsn(6500)))
    result = plan(diverged)
    assert (result.action, result.stop_first) == ("rewind", True)


def test_the_plan_survives_json() -> None:
    result = plan(stopped())
    assert RejoinPlan.from_dict(result.to_dict()) == result


def test_in_every_mixture_nothing_diverged_is_started_and_nothing_primary_is_touched() -> None:
    """States of the target, ends of its log, marks and consents in every combination."""
    states = ("in production", "shut down", "shut down in recovery", "in archive recovery")
    counted = 0
    for state, runs, end, mark, checksums, stop, free in product(
        states, (None, True, False), (4000, 5000, 5001, 7000), (False, True), (False, True), (False, True), (1, 20)
    ):
        target = stopped(state, control=control(state, data_checksums=checksums, min_recovery_lsn=Lsn(end)))
        if runs is not None:
            target = replace(target, state="running", in_recovery=runs, replay_lsn=Lsn(end), current_lsn=Lsn(end))
        directory = Directory(wal_end=Lsn(end), interrupted=mark, free_bytes=free * GIB)
        counted += 1
        try:
            result = plan(target, directory, consent=Consent(stop_primary=stop))
        except Refused:
            continue
        if result.action in ("nothing", "follow", "start"):
            assert end <= FORK
            assert not mark
        if runs is False:
            assert stop
        if result.action in ("rewind", "clone"):
            assert result.stop_first == (runs is not None)
        if result.action == "rewind":
            assert checksums
            assert not mark
    assert counted == 768
