# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a clone decides, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import (
    CloneRequest,
    DirectoryState,
    Failure,
    Marker,
    Place,
    Process,
    SlotState,
    Source,
    SourceFacts,
    Tablespace,
    Target,
)
from ansible_collections.dbops.fleet.plugins.module_utils.clone.plan import (
    CLONE,
    FINISH,
    IDENTIFY,
    JOIN,
    NOTHING,
    Plan,
    complete,
    decide,
    describe,
    tablespace_directories,
)
from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused

DATA, COPY = "/srv/17/main", "/srv/17/main.dbops-clone"
OURS, THEIRS = "7000000000000000001", "7000000000000000002"
GB = 10**9

EMPTY = DirectoryState(exists=True)
ABSENT = DirectoryState()
REMAINS = DirectoryState(exists=True, entries=("base",), version="17")
COMPLETE = DirectoryState(exists=True, entries=("base",), version="17", system_identifier=OURS)
MEMBER = replace(COMPLETE, used=True)


def request(**changes: Any) -> CloneRequest:
    values: dict[str, Any] = {"data_directory": DATA, "version": 17, "member": "db2", "slot": "db2"}
    return CloneRequest(**{**values, "source": Source("10.0.0.1"), "bin_directory": "/bin", **changes})


def marker(**changes: Any) -> Marker:
    made = Marker("id", request(), COPY, "copying", Process(42, 1, "boot"), OURS, 1.0, 2.0, slot_created=True)
    return replace(made, **changes)


def target(data: DirectoryState = ABSENT, copy: DirectoryState = ABSENT, **changes: Any) -> Target:
    return replace(Target(data, copy), **changes)


def source(**changes: Any) -> SourceFacts:
    facts = SourceFacts(
        system_identifier=OURS,
        timeline=1,
        version_num=170004,
        in_recovery=False,
        streaming=False,
        wal_level="replica",
        max_wal_senders=10,
        used_wal_senders=0,
        max_replication_slots=10,
        used_replication_slots=0,
        wal_segment_size=16 * 2**20,
        max_wal_size=GB,
        size_bytes=10 * GB,
    )
    return replace(facts, **changes)


def place(free: int = 100 * GB, device: int = 1, **changes: Any) -> Place:
    return replace(Place(device, "/srv", free), **changes)


def completed(
    facts: SourceFacts | None = None,
    places: dict[str, Place] | None = None,
    found: Target | None = None,
    **changes: Any,
) -> Plan:
    found, asked = found or target(), request(**changes)
    return complete(asked, decide(asked, found), found, facts or source(), places or {COPY: place()})


# The directories


@pytest.mark.parametrize("data", [ABSENT, EMPTY])
def test_clones_beside_an_absent_or_empty_directory(data: DirectoryState) -> None:
    assert decide(request(), target(data)) == Plan(CLONE, COPY)


def test_clones_in_place_where_the_directory_is_a_mount_point() -> None:
    assert decide(request(), target(EMPTY, mount_point=True)) == Plan(CLONE, DATA, in_place=True)


@pytest.mark.parametrize("state", [COMPLETE, MEMBER, replace(MEMBER, running=True)])
@pytest.mark.parametrize("mount_point", [False, True])
@pytest.mark.parametrize("earlier", [None, marker(phase="finished"), marker(phase="finished", directory=DATA)])
def test_leaves_a_member_of_the_cluster_alone(state: DirectoryState, mount_point: bool, earlier: Marker | None) -> None:
    found = target(state, mount_point=mount_point, marker=earlier)
    assert decide(request(), found).action == IDENTIFY
    assert decide(request(), found, OURS).action == NOTHING
    assert decide(request(expected_system_identifier=OURS), found).action == NOTHING


@pytest.mark.parametrize("state", [COMPLETE, MEMBER, replace(MEMBER, running=True)])
@pytest.mark.parametrize("known", ["expected", "source"])
def test_refuses_a_directory_of_another_cluster(state: DirectoryState, known: str) -> None:
    asked = request(expected_system_identifier=THEIRS if known == "expected" else None)
    with pytest.raises(Refused, match="belongs to another cluster"):
        decide(asked, target(state), THEIRS if known == "source" else None)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (DirectoryState(True, ("thesis.txt",)), r"not empty \(thesis\.txt\)"),
        (DirectoryState(True, ("lost+found",)), "use a directory below it"),
        (replace(COMPLETE, version="15"), "PostgreSQL 15, not 17"),
        (replace(COMPLETE, system_identifier=None), "control file cannot be read"),
    ],
)
@pytest.mark.parametrize("mount_point", [False, True])
@pytest.mark.parametrize("earlier", [None, marker(), marker(phase="finished", directory=DATA)])
def test_refuses_what_it_does_not_know(
    state: DirectoryState, words: str, mount_point: bool, earlier: Marker | None
) -> None:
    with pytest.raises(Refused, match=words):
        decide(request(), target(state, mount_point=mount_point, marker=earlier), OURS)


@pytest.mark.parametrize("phase", ["preparing", "copying", "failed"])
@pytest.mark.parametrize("data", [ABSENT, EMPTY])
def test_redoes_what_an_unfinished_clone_of_ours_has_left(phase: str, data: DirectoryState) -> None:
    found = target(data, REMAINS, marker=marker(phase=phase))
    assert decide(request(), found) == Plan(CLONE, COPY, remains=True)


def test_redoes_remains_in_place_only_on_a_mount_point() -> None:
    left = marker(directory=DATA)
    assert decide(request(), target(REMAINS, mount_point=True, marker=left)) == Plan(CLONE, DATA, True, remains=True)
    with pytest.raises(Refused):
        decide(request(), target(REMAINS, marker=left), OURS)


@pytest.mark.parametrize(
    "earlier",
    [
        None,
        marker(phase="finished"),
        marker(phase="failed", directory=""),  # its remains were removed: what is there now is another's
        marker(directory="/elsewhere"),
    ],
)
def test_refuses_a_directory_beside_that_is_not_provably_ours(earlier: Marker | None) -> None:
    with pytest.raises(Refused, match="is no clone that this tool left unfinished"):
        decide(request(), target(copy=REMAINS, marker=earlier))


@pytest.mark.parametrize("state", [replace(REMAINS, used=True), replace(REMAINS, running=True)])
def test_remains_that_a_server_was_started_on_are_ours_no_more(state: DirectoryState) -> None:
    with pytest.raises(Refused):
        decide(request(), target(copy=state, marker=marker()))
    with pytest.raises(Refused):
        decide(request(), target(state, mount_point=True, marker=marker(directory=DATA)))


@pytest.mark.parametrize("phase", ["copying", "verifying", "placing", "failed"])
def test_carries_on_a_complete_copy(phase: str) -> None:
    plan = decide(request(), target(copy=COMPLETE, marker=marker(phase=phase, copied=True)))
    assert (plan.action, plan.system_identifier) == (FINISH, OURS)


@pytest.mark.parametrize(
    ("asked", "left", "state"),
    [
        (request(slot=None), marker(copied=True, request=request(slot=None)), COMPLETE),  # nothing has kept the WAL
        (request(slot="other"), marker(copied=True), COMPLETE),
        (request(source=Source("10.0.0.9")), marker(copied=True), COMPLETE),
        (request(), marker(copied=False), COMPLETE),
        (request(), marker(copied=True), replace(COMPLETE, system_identifier=THEIRS)),
        (request(expected_system_identifier=THEIRS), marker(copied=True), COMPLETE),
    ],
)
def test_makes_a_complete_copy_anew_where_carrying_on_is_not_safe(
    asked: CloneRequest, left: Marker, state: DirectoryState
) -> None:
    assert decide(asked, target(copy=state, marker=left)) == Plan(CLONE, COPY, remains=True)


def test_remains_in_tablespaces_are_removed_too() -> None:
    left = marker(phase="failed", tablespace_directories=("/fast",))
    assert decide(request(), target(marker=left)).remains


@pytest.mark.parametrize("data", [ABSENT, EMPTY, REMAINS])
def test_joins_a_clone_that_is_running(data: DirectoryState) -> None:
    assert decide(request(), target(data, REMAINS, marker=marker(), worker_alive=True)).action == JOIN


@pytest.mark.parametrize("asked", [request(slot="other"), request(source=Source("10.0.0.9"))])
def test_refuses_to_join_a_clone_of_something_else(asked: CloneRequest) -> None:
    with pytest.raises(Refused, match="is running"):
        decide(asked, target(marker=marker(), worker_alive=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"marker_problem": "it belongs to user id 1000"}, "cannot be trusted"),
        ({"missing_program": "/bin/pg_basebackup"}, "postgresql-17"),
        ({"owner_known": False}, "no user postgres"),
        ({"parent_exists": False, "grandparent_exists": False}, "/srv/17 for the data directory does not exist"),
    ],
)
def test_refuses_a_host_that_is_not_ready(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        decide(request(), target(**changes))
    assert words in str(refusal.value)


def test_makes_the_version_s_directory_itself() -> None:
    assert decide(request(), target(parent_exists=False)).action == CLONE


@pytest.mark.parametrize(("option", "value"), [("max_rate", "fast"), ("max_rate", "-1"), ("data_directory", "main")])
def test_refuses_bad_input(option: str, value: str) -> None:
    with pytest.raises(Refused, match=value):
        decide(request(**{option: value}), target())


# Replacing, for rejoin


@pytest.mark.parametrize("data", [ABSENT, EMPTY, COMPLETE, replace(MEMBER, system_identifier=THEIRS)])
def test_replacing_clones_beside_whatever_is_there(data: DirectoryState) -> None:
    assert decide(request(replace=True), target(data)) == Plan(CLONE, COPY)


def test_replacing_refuses_a_running_server_and_a_mount_point() -> None:
    with pytest.raises(Refused, match="A server runs on"):
        decide(request(replace=True), target(replace(MEMBER, running=True)))
    with pytest.raises(Refused, match="mount point"):
        decide(request(replace=True), target(MEMBER, mount_point=True))


# The source, the slot, the space


def test_a_complete_plan_knows_slot_size_and_identity() -> None:
    plan = completed()
    assert (plan.create_slot, plan.renew_slot, plan.bytes_total, plan.system_identifier) == (True, False, 10 * GB, OURS)
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("facts", "asked", "words"),
    [
        (source(), {"expected_system_identifier": THEIRS}, "no member of this cluster"),
        (source(version_num=150018), {}, "runs PostgreSQL 15, and a replica of 17"),
        (source(wal_level="minimal"), {}, "wal_level minimal"),
        (source(used_wal_senders=9), {}, "has 1 of 10 WAL senders left"),
        (source(used_replication_slots=10), {}, "no replication slot left for db2"),
        (source(slot=SlotState("logical", False)), {}, "is a logical one"),
        (source(slot=SlotState("physical", True, "db3 from 10.0.0.3")), {}, "in use by db3 from 10.0.0.3"),
        (source(slot=SlotState("physical", False, wal_status="lost")), {}, "has lost WAL"),
    ],
)
def test_refuses_a_source_that_could_not_be_cloned(facts: SourceFacts, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        completed(facts, **asked)
    assert words in str(refusal.value)
    assert refusal.value.remedy


@pytest.mark.parametrize("used", [0, 8])
def test_two_wal_senders_are_enough(used: int) -> None:
    assert completed(source(used_wal_senders=used)).action == CLONE


def test_a_slot_that_is_there_is_used_and_one_of_our_own_killed_clone_made_anew() -> None:
    idle = source(slot=SlotState("physical", False), used_replication_slots=10)
    assert not completed(idle).create_slot
    killed = target(copy=REMAINS, marker=marker())
    held = source(slot=SlotState("physical", True, "clone of db2", "lost"))
    plan = completed(held, found=killed)
    assert (plan.create_slot, plan.renew_slot) == (True, True)
    gone = completed(source(), found=killed)
    assert (gone.create_slot, gone.renew_slot) == (True, False)


@pytest.mark.parametrize("left", [marker(slot_created=False), marker(request=request(slot="other"))])
def test_a_slot_that_our_killed_clone_did_not_make_is_not_dropped(left: Marker) -> None:
    plan = completed(source(slot=SlotState("physical", False)), found=target(copy=REMAINS, marker=left))
    assert (plan.create_slot, plan.renew_slot) == (False, False)


def test_without_a_slot_none_is_made() -> None:
    assert not completed(source(used_replication_slots=10), slot=None).create_slot


@pytest.mark.parametrize(("free", "enough"), [(10 * GB, False), (int(10.5 * GB), False), (int(10.6 * GB), True)])
def test_needs_room_for_the_data_and_a_margin(free: int, enough: bool) -> None:
    if enough:
        assert completed(places={COPY: place(free)}).action == CLONE
    else:
        with pytest.raises(Refused, match=r"the clone needs 10\.6 GB") as refusal:
            completed(places={COPY: place(free)})
        assert refusal.value.details["bytes_free"] == free


def test_remains_count_as_room() -> None:
    killed = target(copy=REMAINS, marker=marker())
    assert completed(places={COPY: place(GB, reclaimable_bytes=10 * GB)}, found=killed).remains


def test_tablespaces_on_one_filesystem_share_its_room_and_on_their_own_do_not() -> None:
    facts = source(tablespaces=(Tablespace("a", "/a", 10 * GB), Tablespace("b", "/b", 10 * GB)))
    apart = {COPY: place(12 * GB, 1), "/a": place(12 * GB, 2), "/b": place(12 * GB, 3)}
    assert completed(facts, apart).bytes_total == 30 * GB
    with pytest.raises(Refused, match=r"needs 21\.1 GB"):
        completed(facts, {**apart, "/a": place(12 * GB, 1)})


def test_warns_where_wal_may_not_fit_after_the_clone() -> None:
    (warning,) = completed(places={COPY: place(int(10.7 * GB))}).warnings
    assert "max_wal_size = 1.0 GB" in warning


def test_warns_of_a_standby_that_streams_from_nobody() -> None:
    assert "streams from nobody" in completed(source(in_recovery=True)).warnings[0]
    assert completed(source(in_recovery=True, streaming=True)).warnings == ()


def test_tablespaces_are_mapped_by_their_directory_on_the_source() -> None:
    facts = source(tablespaces=(Tablespace("a", "/a", 1), Tablespace("b", "/b", 1)))
    assert tablespace_directories(request(tablespaces={"/a": "/ssd"}), facts) == {"/a": "/ssd", "/b": "/b"}
    with pytest.raises(Refused, match="Its tablespaces lie in: /a, /b"):
        tablespace_directories(request(tablespaces={"/c": "/ssd"}), facts)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"/a": f"{DATA}/a"}, "inside the data directory"),
        ({"/a": COPY}, "inside the data directory"),
        ({"/a": "/full"}, "is not empty"),
        ({"/a": "/b"}, "same directory"),
    ],
)
def test_refuses_a_tablespace_s_directory_that_cannot_be_used(mapping: dict[str, str], words: str) -> None:
    facts = source(tablespaces=(Tablespace("a", "/a", 1), Tablespace("b", "/b", 1)))
    places = {path: place() for path in (COPY, "/a", "/b", f"{DATA}/a")}
    with pytest.raises(Refused, match=words):
        completed(facts, {**places, "/full": place(entries=("x",))}, tablespaces=mapping)


# What is told


def test_describes_every_step() -> None:
    plan = completed(found=target(copy=REMAINS, marker=marker()))
    assert describe(request(), plan) == [
        "Remove what an earlier, unfinished clone has left.",
        "Create the replication slot db2 on 10.0.0.1.",
        f"Copy 10.0 GB from 10.0.0.1 to {COPY}.",
        "Verify every file against the backup manifest.",
        "Write standby.signal and the settings to stream from 10.0.0.1 as db2.",
        f"Rename {COPY} to {DATA}.",
    ]


@pytest.mark.parametrize(("action", "words"), [(NOTHING, "nothing to do"), (JOIN, "wait for it")])
def test_describes_what_takes_no_steps(action: str, words: str) -> None:
    assert words in describe(request(), Plan(action, DATA))[0]


def test_a_marker_goes_through_json_and_comes_back_equal() -> None:
    left = marker(failure=Failure("a", "b"), tablespace_directories=("/a",), request=request(tablespaces={"/a": "/b"}))
    assert Marker.from_dict(left.to_dict()) == left
