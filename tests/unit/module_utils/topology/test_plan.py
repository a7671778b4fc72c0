# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of setup for every combination of three members, against what must never happen."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.instance_facts import (
    InstanceFacts,
    OtherInstance,
    Owner,
)
from ansible_collections.dbops.fleet.plugins.module_utils.topology.plan import ACTIONS, Action, plan_setup, refusals

NAMES = ("db1", "db2", "db3")
OURS, THEIRS, OTHERS = "7000000000000000001", "7000000000000000002", "7000000000000000003"


def instance(
    state: str, *, identifier: str | None = None, cluster: str | None = None, **facts: object
) -> InstanceFacts:
    physical = {"absent": "absent", "empty": "absent", "running": "running", "starting": "starting"}.get(
        state, "stopped"
    )
    member = MemberFacts("x", "10.0.0.1", 5432, str(facts.pop("server", physical)), system_identifier=identifier)
    return InstanceFacts(
        version=15,
        name="main",
        state=state,
        data_directory="/var/lib/postgresql/15/main",
        member=replace(member, **facts),  # type: ignore[arg-type]
        owner=Owner(cluster, identifier) if cluster else None,
    )


def unstarted(identifier: str) -> InstanceFacts:
    """What a run of setup leaves that is killed before the first start: a mark without identifier."""
    return replace(instance("stopped", identifier=identifier), owner=Owner("orders"))


def ours(state: str, **facts: object) -> InstanceFacts:
    return instance(state, identifier=OURS, cluster="orders", **facts)


# Everything that a host can be to a cluster.
KINDS: dict[str, InstanceFacts | None] = {
    "unreachable": None,
    "absent": instance("absent"),
    "empty": instance("empty"),
    "interrupted clone": instance("interrupted_clone"),
    "no PostgreSQL data": instance("foreign"),
    "foreign stopped": instance("foreign", identifier=THEIRS),
    "foreign primary": instance("foreign", identifier=THEIRS, server="running", in_recovery=False, timeline=1),
    "unmarked replica": instance("foreign", identifier=OURS, server="running", in_recovery=True, timeline=2),
    "unmarked stopped": instance("foreign", identifier=OURS),
    "other cluster": instance("running", identifier=THEIRS, cluster="billing", in_recovery=False, timeline=1),
    "same mark, other data": instance("running", identifier=OTHERS, cluster="orders", in_recovery=False, timeline=1),
    "unstarted": unstarted(OURS),
    "unstarted other": unstarted(THEIRS),
    "stopped": ours("stopped", timeline=1),
    "stopped later": ours("stopped", timeline=3),
    "crashed": ours("crashed", timeline=1),
    "starting": ours("starting", timeline=1),
    "running mute": ours("running", server="unreachable", timeline=2),
    "replica": ours("running", in_recovery=True, timeline=2),
    "primary": ours("running", in_recovery=False, timeline=2),
    "patroni": ours("running", in_recovery=True, timeline=2, orchestrators=("patroni.service",)),
}
MARKED = {"stopped", "stopped later", "crashed", "starting", "running mute", "replica", "primary", "patroni"}
WITH_DATA = {kind for kind, one in KINDS.items() if one is not None and one.state not in ("absent", "empty")}


def combination(*kinds: str) -> dict[str, InstanceFacts | None]:
    made: dict[str, InstanceFacts | None] = {}
    for name, kind in zip(NAMES, kinds, strict=True):
        one = KINDS[kind]
        made[name] = one and replace(one, member=replace(one.member, name=name))
    return made


def plan(*kinds: str, initial: tuple[str, ...] = ("db1",)) -> dict[str, Action]:
    return plan_setup("orders", combination(*kinds), initial)


def actions(*kinds: str, initial: tuple[str, ...] = ("db1",)) -> list[str]:
    return [action.action for action in plan(*kinds, initial=initial).values()]


INITIALS = [(), ("db1",), ("db3",), ("db1", "db2"), ("elsewhere",)]


@pytest.mark.parametrize("initial", INITIALS, ids=str)
def test_nothing_unsafe_is_planned_in_any_combination(initial: tuple[str, ...]) -> None:
    count = 0
    for kinds in itertools.product(KINDS, repeat=3):
        made = plan(*kinds, initial=initial)
        # Alone, the other data with our mark are the cluster; beside members with another identifier, nobody is.
        mixed = "same mark, other data" in kinds and bool(MARKED & set(kinds))
        writers = kinds.count("primary") + kinds.count("same mark, other data")
        count += 1
        assert list(made) == list(NAMES)
        chosen = {name: action.action for name, action in made.items()}
        assert set(chosen.values()) <= set(ACTIONS)
        if "initialize" in chosen.values():
            assert set(kinds) <= {"absent", "empty", "unstarted", "unstarted other"}, kinds
            begun = [name for name, kind in zip(NAMES, kinds, strict=True) if kind.startswith("unstarted")]
            assert begun in ([], [initial[0]]), kinds
            assert len(initial) == 1
            assert chosen[initial[0]] == "initialize"
            assert list(chosen.values()).count("initialize") == 1
        for (name, action), kind in zip(made.items(), kinds, strict=True):
            if action.action == "clone":
                assert kind in ("absent", "empty", "interrupted clone", "unstarted"), kinds
                assert writers == (0 if "initialize" in chosen.values() else 1), kinds
            if action.action == "converge":
                assert kind in ("primary", "replica", "unmarked replica", "same mark, other data"), kinds
                assert writers == 1, kinds
            if action.action == "leave_alone":
                assert kind in WITH_DATA, kinds
            assert (action.action == "unreachable") == (kind == "unreachable"), kinds
            if action.action == "refuse":
                assert action.code
                assert action.remedy
                text = action.reason + action.remedy
                assert any(host in text for host in NAMES) or "fleet_initial_primary" in text, action
            else:
                assert action.remedy is None
            if kind in ("no PostgreSQL data", "foreign stopped", "foreign primary", "other cluster"):
                assert action.action == "refuse", kinds
                assert name in action.reason
            if kind == "patroni":
                assert action.code == "managed_elsewhere"
        if writers > 1 or mixed:
            assert set(chosen.values()) <= {"refuse", "unreachable"}, kinds
        assert len(refusals(made)) == len({action.reason for action in made.values() if action.action == "refuse"})
    assert count == len(KINDS) ** 3


def test_three_bare_hosts_become_a_primary_and_two_replicas() -> None:
    assert actions("absent", "empty", "absent") == ["initialize", "clone", "clone"]
    assert actions("absent", "empty", "absent", initial=("db3",)) == ["clone", "clone", "initialize"]


@pytest.mark.parametrize(
    ("initial", "code"),
    [
        ((), "no_initial_primary"),
        (("db1", "db2"), "two_initial_primaries"),
        (("elsewhere",), "unknown_initial_primary"),
    ],
)
def test_a_new_cluster_needs_exactly_one_initial_primary(initial: tuple[str, ...], code: str) -> None:
    made = plan("absent", "absent", "absent", initial=initial)
    assert {action.code for action in made.values()} == {code}
    assert len(refusals(made)) == 1
    assert "fleet_initial_primary" in refusals(made)[0]


def test_a_new_cluster_is_refused_while_a_host_that_may_hold_its_data_is_away() -> None:
    made = plan("absent", "absent", "unreachable")
    assert [action.code for action in made.values()] == ["unreachable", "unreachable", None]
    assert "db3 cannot be reached" in refusals(made)[0]


def test_the_inventory_s_initial_primary_means_nothing_once_the_cluster_exists() -> None:
    for initial in INITIALS:
        assert actions("replica", "primary", "replica", initial=initial) == ["converge", "converge", "converge"]
        assert actions("stopped", "primary", "replica", initial=initial) == ["leave_alone", "converge", "converge"]


def test_a_new_host_is_cloned_and_touches_no_other() -> None:
    assert actions("primary", "replica", "absent") == ["converge", "converge", "clone"]
    assert actions("primary", "replica", "interrupted clone") == ["converge", "converge", "clone"]
    assert actions("primary", "unreachable", "absent") == ["converge", "unreachable", "clone"]


def test_a_primary_older_than_its_replicas_is_not_believed() -> None:
    made = plan("primary", "stopped later", "replica")
    assert {action.code for action in made.values()} == {"stale_primary"}
    assert "db1 takes writes on timeline 2, but db2 already has timeline 3" in refusals(made)[0]


def test_two_primaries_are_both_named() -> None:
    (refusal,) = refusals(plan("primary", "primary", "absent"))
    assert "db1 (timeline 2) and db2 (timeline 2)" in refusal
    assert refusal.startswith("db1, db2, db3: ")


def test_no_clone_without_a_primary() -> None:
    made = plan("stopped", "replica", "absent")
    assert [action.action for action in made.values()] == ["leave_alone", "leave_alone", "refuse"]
    assert "db1 is stopped, db2 is running" in made["db3"].reason


def test_a_replica_made_by_hand_is_known_by_its_system_identifier() -> None:
    assert actions("primary", "unmarked replica", "unmarked stopped") == ["converge", "converge", "leave_alone"]
    assert actions("unmarked stopped", "unmarked replica", "absent") == ["refuse", "refuse", "refuse"]


def test_a_host_of_another_cluster_is_told_whose_it_is() -> None:
    made = plan("primary", "replica", "other cluster")
    assert "belongs to the cluster billing, not to orders" in made["db3"].reason
    assert [action.action for action in made.values()] == ["converge", "converge", "refuse"]


def test_a_port_in_use_by_another_instance_is_found_before_anything_is_made() -> None:
    instances = combination("primary", "absent", "absent")
    taken = OtherInstance(13, "old", "/var/lib/postgresql/13/old", port=5432, configured=True, running=True)
    assert instances["db2"] is not None
    instances["db2"] = replace(instances["db2"], others=(taken,))
    made = plan_setup("orders", instances, ())
    assert made["db2"].code == "port_taken"
    assert "13/old" in made["db2"].reason
    assert made["db3"].action == "clone"


@pytest.mark.parametrize("kind", ["primary", "replica", "starting", "unmarked replica"])
def test_a_running_instance_is_not_moved_to_another_port(kind: str) -> None:
    instances = combination("primary", kind, "absent") if kind != "primary" else combination("replica", kind, "absent")
    found = instances["db2"]
    assert found is not None
    instances["db2"] = replace(found, port=5433)
    made = plan_setup("orders", instances, ())
    assert made["db2"].code == "port_changed"
    (refusal,) = refusals(made)
    assert "PostgreSQL on db2 runs with port 5433, and the inventory wants 5432" in refusal
    assert "Set postgres_server_port: 5433 for db2 again" in refusal
    assert made["db1"].action == "converge"
    instances["db2"] = replace(found, port=5432)
    assert refusals(plan_setup("orders", instances, ())) == []


def test_the_port_of_a_stopped_instance_hinders_nobody() -> None:
    instances = combination("primary", "stopped", "absent")
    found = instances["db2"]
    assert found is not None
    instances["db2"] = replace(found, port=5433)
    assert [action.action for action in plan_setup("orders", instances, ()).values()] == [
        "converge",
        "leave_alone",
        "clone",
    ]


def beside(other: OtherInstance, *kinds: str, host: str = "db2") -> dict[str, Action]:
    """The plan where one host has another instance too."""
    instances = combination(*kinds)
    found = instances[host]
    assert found is not None
    return plan_setup("orders", {**instances, host: replace(found, others=(other,))}, ("db1",))


@pytest.mark.parametrize("host", NAMES)
@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
@pytest.mark.parametrize(
    "owner",
    [Owner("orders", OURS), Owner("orders"), Owner("billing", THEIRS), None],
    ids=["ours", "begun", "theirs", "no"],
)
def test_no_new_cluster_is_made_beside_data_of_another_version(owner: Owner | None, running: bool, host: str) -> None:
    # As after an upgrade of Debian, where the instance of the version before is down.
    place = "/var/lib/postgresql/13/main"
    other = OtherInstance(13, "main", place, port=5433, configured=True, running=running, owner=owner)
    made = beside(other, "absent", "empty", "absent", host=host)
    assert {action.code for action in made.values()} == {"other_version"}
    (refusal,) = refusals(made)
    assert f"{host} has 13/main of {owner.cluster if owner else 'unknown origin'}" in refusal
    assert ("running" if running else "stopped") in refusal
    assert place in refusal
    assert "set postgres_server_version: 13 for the hosts of orders" in refusal
    assert "systemctl start postgresql@13-main" in refusal


def test_what_is_marked_as_ours_counts_by_any_name_and_where_its_disk_is_away() -> None:
    other = OtherInstance(13, "old", "/data/13", configured=True, empty=True, owner=Owner("orders", OURS))
    assert beside(other, "absent", "absent", "absent")["db1"].code == "other_version"


@pytest.mark.parametrize(
    "other",
    [
        OtherInstance(13, "reports", "/var/lib/postgresql/13/reports", port=5433, configured=True, running=True),
        OtherInstance(15, "reports", "/var/lib/postgresql/15/reports", port=5433, configured=True, running=True),
        OtherInstance(13, "main", "/var/lib/postgresql/13/main", port=5433, configured=True, empty=True),
    ],
    ids=["of another name and version", "of another name", "of another version without data"],
)
def test_an_instance_that_has_nothing_to_do_with_the_cluster_hinders_nobody(other: OtherInstance) -> None:
    made = beside(other, "absent", "absent", "absent")
    assert [action.action for action in made.values()] == ["initialize", "clone", "clone"]


def test_data_of_another_version_hinder_nobody_where_the_cluster_exists() -> None:
    other = OtherInstance(13, "main", "/var/lib/postgresql/13/main", configured=True, owner=Owner("orders", OURS))
    made = beside(other, "primary", "replica", "absent")
    assert [action.action for action in made.values()] == ["converge", "converge", "clone"]


def test_carries_on_where_an_earlier_run_was_ended_before_the_first_start() -> None:
    assert actions("unstarted", "absent", "absent") == ["initialize", "clone", "clone"]
    assert actions("primary", "unstarted", "absent") == ["converge", "clone", "clone"]


def test_refuses_another_initial_primary_than_the_one_that_was_begun() -> None:
    made = plan("unstarted", "absent", "absent", initial=("db2",))
    assert {action.code for action in made.values()} == {"begun_elsewhere"}
    assert "db1" in refusals(made)[0]


def test_refuses_an_unstarted_copy_of_another_cluster() -> None:
    assert plan("primary", "unstarted other", "absent")["db2"].code == "foreign_data"
