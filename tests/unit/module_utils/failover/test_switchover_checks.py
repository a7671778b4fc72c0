# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every check before a switchover, each with what it refuses (S03, S04, S16-S21, S27, S29, S34 of the fault list)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_checks import (
    Policy,
    Scene,
    check_candidate,
    check_cluster,
    refusals,
    synchronous_after,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_plan import (
    check_poolers,
    choose,
    make_plan,
    slot_name,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_request import Budgets, PoolerPlace
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.facts import Database, Peer, PoolerFacts, Setting
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import (
    Activity,
    Archiver,
    MemberFacts,
    Slot,
    WalReceiver,
    WalSender,
)

MB = 1024 * 1024
SETTINGS = {
    "max_connections": "100",
    "max_worker_processes": "8",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_prepared_transactions": "0",
    "max_locks_per_transaction": "64",
    "hot_standby": "on",
    "wal_level": "replica",
    "default_transaction_read_only": "off",
    "synchronous_standby_names": "",
    "wal_log_hints": "on",
    "max_slot_wal_keep_size": "1GB",
}


def sender(name: str, **changes: Any) -> WalSender:
    at = Lsn(100 * MB)
    return replace(WalSender(name, pid=1, state="streaming", sent_lsn=at, flush_lsn=at, replay_lsn=at), **changes)


PRIMARY = MemberFacts(
    name="pg1",
    address="10.0.0.1",
    state="running",
    system_identifier="7",
    version_num=150018,
    timeline=3,
    in_recovery=False,
    current_lsn=Lsn(100 * MB),
    senders=(sender("pg2"), sender("pg3")),
    activity=Activity(),
    archiver=Archiver(ready_count=0),
    settings=SETTINGS,
)


def standby(name: str, **changes: Any) -> MemberFacts:
    plain = MemberFacts(
        name=name,
        address=f"10.0.0.{name[-1]}",
        state="running",
        system_identifier="7",
        version_num=150018,
        timeline=3,
        in_recovery=True,
        receive_lsn=Lsn(100 * MB),
        replay_lsn=Lsn(100 * MB),
        replay_paused=False,
        apply_delay_seconds=0.0,
        receiver=WalReceiver("streaming", "10.0.0.1", 5432, name),
        settings={**SETTINGS, "primary_slot_name": name},
    )
    return replace(plain, **changes)


def scene(
    primary: MemberFacts = PRIMARY,
    second: MemberFacts | None = None,
    third: MemberFacts | None = None,
    policy: Policy | None = None,
    **more: Any,
) -> Scene:
    members = (primary, second or standby("pg2"), third or standby("pg3"))
    return Scene(members, "pg1", policy or Policy(), Budgets(), more.pop("free_mb", {}), **more)


def refused(where: Scene, candidate: str = "pg2") -> dict[str, str]:
    results = [*check_cluster(where), *check_candidate(where, candidate)]
    for result in results:
        assert result.result == "ok" or result.remedy, f"{result.name} has no remedy"
    return {result.name: result.found for result in refusals(results)}


def warned(where: Scene, candidate: str = "pg2") -> dict[str, str]:
    results = [*check_cluster(where), *check_candidate(where, candidate)]
    return {result.name: result.found for result in results if result.result == "warn"}


def test_a_healthy_cluster_passes_every_check() -> None:
    assert refused(scene()) == {}
    assert warned(scene()) == {}


def with_settings(member: MemberFacts, **settings: str) -> MemberFacts:
    merged: Mapping[str, str] = {**member.settings, **settings}
    return replace(member, settings=merged)


LOGICAL = Slot("sub", "logical", database="app", plugin="pgoutput", failover=True)

CASES: dict[str, tuple[Scene, str, str]] = {
    "a member is down": (
        scene(third=standby("pg3", state="unreachable", in_recovery=None)),
        "reachable",
        "unreachable",
    ),
    "two primaries (S21)": (scene(second=replace(PRIMARY, name="pg2")), "one_primary", "pg1 and pg2"),
    "no primary": (scene(primary=standby("pg1")), "one_primary", "no member takes writes"),
    "a stranger (S20)": (scene(third=standby("pg3", system_identifier="8")), "same_system", "pg3: 8"),
    "another version": (scene(third=standby("pg3", version_num=160003)), "same_version", "pg3: 16"),
    "another timeline (S20)": (scene(second=standby("pg2", timeline=2)), "same_timeline", "pg2: 2"),
    "Patroni (S29)": (
        scene(orchestrated=(replace(PRIMARY, orchestrators=("patroni",)),)),
        "not_managed_by_others",
        "Patroni",
    ),
    "a backup runs": (scene(replace(PRIMARY, activity=Activity(base_backups=1))), "no_base_backup", "1 base backup"),
    "idle in transaction (S03)": (
        scene(replace(PRIMARY, activity=Activity(idle_in_transaction=1, oldest_transaction_seconds=60))),
        "no_long_transaction",
        "60.0 s, 1 idle in transaction",
    ),
    "far too much to archive": (scene(replace(PRIMARY, archiver=Archiver(ready_count=501))), "archive", "501"),
    "does not stream": (scene(second=standby("pg2", receiver=None)), "candidate_streams", "none"),
    "cascaded (S20)": (scene(replace(PRIMARY, senders=(sender("pg3"),))), "candidate_streams", "no walsender"),
    "still catching up": (
        scene(replace(PRIMARY, senders=(sender("pg2", state="catchup"), sender("pg3")))),
        "candidate_streams",
        "catchup",
    ),
    "replay paused (S18)": (scene(second=standby("pg2", replay_paused=True)), "candidate_replays", "paused"),
    "delayed (S18)": (scene(second=standby("pg2", apply_delay_seconds=3600.0)), "candidate_replays", "3600 s late"),
    "not received": (scene(second=standby("pg2", receive_lsn=Lsn(50 * MB))), "candidate_lag", "50 MB not received"),
    "not replayed (S17)": (
        scene(second=standby("pg2", replay_lsn=Lsn(1))),
        "candidate_lag",
        "99 MB received and not replayed",
    ),
    "fewer connections (S19)": (
        scene(second=with_settings(standby("pg2"), max_connections="50")),
        "candidate_settings",
        "max_connections is 50, the primary has 100",
    ),
    "too few walsenders": (
        scene(
            second=with_settings(standby("pg2"), max_wal_senders="2"),
            primary=with_settings(PRIMARY, max_wal_senders="2"),
        ),
        "candidate_settings",
        "max_wal_senders is 2, 3 are needed",
    ),
    "read only by default (S19)": (
        scene(second=with_settings(standby("pg2"), default_transaction_read_only="on")),
        "candidate_settings",
        "read_only is on",
    ),
    "disk full (S19)": (scene(free_mb={"pg2": 20}), "candidate_disk", "20 MB free"),
    "logical slot not synchronised (S34)": (scene(replace(PRIMARY, slots=(LOGICAL,))), "logical_slots", "sub"),
    "sync names nobody can meet": (
        scene(with_settings(PRIMARY, synchronous_standby_names="ANY 2 (pg2, ghost)")),
        "synchronous",
        "ANY 2",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refuses_what_would_go_wrong(case: str) -> None:
    where, name, found = CASES[case]
    reasons = refused(where)
    assert name in reasons, reasons
    assert found in reasons[name]


def test_runs_only_on_the_primarys_host() -> None:
    where = replace(scene(), local="pg2")
    assert "this runs on pg2" in refused(where)["one_primary"]


def test_a_synchronised_failover_slot_is_fine() -> None:
    where = scene(
        replace(PRIMARY, slots=(LOGICAL,)), standby("pg2", slots=(replace(LOGICAL, synced=True, temporary=False),))
    )
    assert refused(where) == {}


def test_the_loss_of_logical_slots_can_be_accepted() -> None:
    where = scene(replace(PRIMARY, slots=(LOGICAL,)), policy=Policy(accept_slot_loss=True))
    assert refused(where) == {}
    assert "sub" in warned(where)["logical_slots"]


def test_refuses_a_subscriber_that_is_behind_and_only_warns_of_a_standby_that_is() -> None:
    late = sender("sub", slot_name="sub", flush_lsn=Lsn(50 * MB))
    where = scene(
        replace(PRIMARY, slots=(LOGICAL,), senders=(*PRIMARY.senders, late)), policy=Policy(accept_slot_loss=True)
    )
    assert "sub is 50 MB behind" in refused(where)["walsenders_caught_up"]
    late = sender("pg4", flush_lsn=Lsn(50 * MB))
    where = scene(replace(PRIMARY, senders=(*PRIMARY.senders, late)))
    assert refused(where) == {}
    assert "pg4 is 50 MB behind" in warned(where)["walsenders_caught_up"]


def test_warns_of_a_failing_archiver() -> None:
    where = scene(replace(PRIMARY, archiver=Archiver(ready_count=3, failing=True)))
    assert refused(where) == {}
    assert "archive" in warned(where)


@pytest.mark.parametrize(
    ("now", "after"),
    [
        ("", ""),
        ("pg2", "FIRST 1 (pg1)"),
        ("FIRST 1 (pg2, pg3)", "FIRST 1 (pg1, pg3)"),
        ("ANY 1 (pg1, pg2, pg3)", "ANY 1 (pg1, pg2, pg3)"),
        ("ANY 1 (pg2, pg3)", "ANY 1 (pg1, pg3)"),
        ("ANY 3 (pg1, pg2, pg3)", "ANY 2 (pg1, pg3)"),
        ("FIRST 1 (pg3)", "FIRST 1 (pg3)"),
        ("*", "FIRST 1 (*)"),
    ],
)
def test_synchronous_standby_names_after_the_switch(now: str, after: str) -> None:
    assert synchronous_after(scene(with_settings(PRIMARY, synchronous_standby_names=now)), "pg2") == after


def test_chooses_by_priority_then_lag_then_name() -> None:
    assert choose(scene(), None, {})[0] == "pg2"
    assert choose(scene(), None, {"pg3": 200})[0] == "pg3"
    assert choose(scene(second=standby("pg2", receive_lsn=Lsn(99 * MB))), None, {})[0] == "pg3"


def test_never_chooses_one_that_would_be_refused() -> None:
    where = scene(second=standby("pg2", apply_delay_seconds=60.0))
    assert choose(where, None, {"pg2": 1000})[0] == "pg3"
    none = scene(second=standby("pg2", replay_paused=True), third=standby("pg3", replay_paused=True))
    assert choose(none, None, {})[0] is None


def test_priority_0_is_chosen_only_by_name() -> None:
    assert choose(scene(), None, {"pg2": 0})[0] == "pg3"
    nobody, why = choose(scene(), None, {"pg2": 0, "pg3": 0})
    assert nobody is None
    assert "priority 0 keeps pg2, pg3 from it unless it is named" in why
    assert choose(scene(), "pg2", {"pg2": 0})[0] == "pg2"


def plan(where: Scene, wanted: str | None = None, **more: Any) -> Any:
    return make_plan(
        where,
        cluster="orders",
        operation="1",
        wanted=wanted,
        priorities={},
        poolers=more.get("poolers", ()),
        pooler_checks=more.get("pooler_checks", ()),
    )


def test_the_plan_has_the_order_for_the_worker() -> None:
    request = plan(scene()).request
    assert (request.old.name, request.new.name, request.timeline) == ("pg1", "pg2", 3)
    assert [place.name for place in request.siblings] == ["pg3"]
    assert request.old.slot == "pg1"
    assert request.synchronous is None


def test_a_cascaded_standby_is_left_where_it_is() -> None:
    cascaded = standby("pg3", receiver=WalReceiver("streaming", "10.0.0.2", 5432))
    request = plan(scene(replace(PRIMARY, senders=(sender("pg2"),)), third=cascaded)).request
    assert request.siblings == ()


def test_no_order_where_anything_refuses() -> None:
    made = plan(scene(), wanted="nobody")
    assert made.request is None
    assert made.candidate is None
    assert "no member" in made.refusals[0].found


def pooler(name: str = "pool1", **changes: Any) -> PoolerFacts:
    database = Database("app", "10.0.0.1", 5432, "app", None, 20, 5, 5, None, 0, 5, False, False)
    plain = PoolerFacts(
        name,
        version=(1, 24, 1),
        databases=(database,),
        settings={
            key: Setting(key, value, None, True)
            for key, value in {
                "pool_mode": "transaction",
                "query_wait_timeout": "120",
                "server_login_retry": "0.2",
            }.items()
        },
        clients=(
            Peer("C", "u", "pgbouncer", "active", "", 0, "dbops-fleet-deadman 1", None, 0.0, None, None, None, None),
        ),
    )
    return replace(plain, **changes)


def pooler_refusals(facts: PoolerFacts, operation: str | None = "1", policy: Policy | None = None) -> dict[str, str]:
    places = [PoolerPlace("pool1", "10.0.0.9", 6432, ("app",))]
    results = check_poolers(scene(policy=policy), places, {"pool1": facts}, operation)
    return {result.name: result.found for result in refusals(results)}


def test_a_pooler_that_is_ready_passes() -> None:
    assert pooler_refusals(pooler()) == {}


def test_refuses_a_pooler_that_cannot_be_reached() -> None:
    assert "pooler_unreachable" in pooler_refusals(PoolerFacts("pool1", error="no answer"))


def test_refuses_without_a_dead_man_but_not_in_a_plan() -> None:
    assert "dead_man" in pooler_refusals(pooler(clients=()))
    assert "dead_man" in pooler_refusals(pooler(), operation="2")
    assert pooler_refusals(pooler(clients=()), operation=None) == {}


def test_refuses_a_pooler_that_points_elsewhere() -> None:
    elsewhere = replace(pooler().databases[0], host="10.0.0.3")
    assert "10.0.0.3" in pooler_refusals(pooler(databases=(elsewhere,)))["pooler_target"]


def test_refuses_session_mode_s04_and_short_waits_s27() -> None:
    settings = {**pooler().settings, "pool_mode": Setting("pool_mode", "session", None, True)}
    assert "pooler_session_mode" in pooler_refusals(pooler(settings=settings))
    settings = {**pooler().settings, "query_wait_timeout": Setting("query_wait_timeout", "6", None, True)}
    assert "pooler_wait_limit" in pooler_refusals(pooler(settings=settings))


def test_refuses_a_dead_man_that_would_come_too_early() -> None:
    assert "dead_man_time" in pooler_refusals(pooler(), policy=Policy(dead_man_seconds=6.0))


def test_the_slot_of_a_member_is_its_name_as_postgresql_allows() -> None:
    assert slot_name("DB-1.example") == "db_1_example"
