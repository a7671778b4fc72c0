# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What managed_files decides, without a disk."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.files.plan import Found, Plan, diff_of, make_plan, parse

ABSENT = Found("absent")


def file(path: str = "/etc/a.conf", **options: Any) -> dict[str, Any]:
    entry = {"path": path, "content": "new\n", "secret_content": None, "owner": "root", "group": "root", "mode": None}
    return {**entry, "validate": [], **options}


def directory(path: str = "/etc/fleet", **options: Any) -> dict[str, Any]:
    return {"path": path, "owner": "root", "group": "root", "mode": None, **options}


def found_file(content: str = "new\n", owner: str = "root", group: str = "root", mode: int = 0o644) -> Found:
    return Found("file", owner, group, mode, content.encode())


def plan(files: list[dict[str, Any]], found: dict[str, Found], **options: Any) -> Plan:
    directories = options.pop("directories", [])
    wanted = parse({"files": files, "directories": directories})
    return make_plan(*wanted, {**{each.path: ABSENT for group in wanted for each in group}, **found}, **options)


def test_leaves_what_is_right_alone() -> None:
    made = plan([file()], {"/etc/a.conf": found_file()})
    assert made == Plan((), ())
    assert diff_of(made) == []


@pytest.mark.parametrize(
    "found",
    [
        ABSENT,
        found_file("old\n"),
        found_file(owner="postgres"),
        found_file(group="postgres"),
        found_file(mode=0o600),
        Found("file", "root", "root", 0o644, b"\xff\xfe"),
    ],
)
def test_changes_what_differs_in_any_way(found: Found) -> None:
    assert plan([file()], {"/etc/a.conf": found}).changed_paths == ["/etc/a.conf"]


@pytest.mark.parametrize("kind", ["directory", "symlink", "other"])
def test_refuses_another_kind_of_thing_in_place_of_a_file(kind: str) -> None:
    with pytest.raises(Refused, match=r"/etc/a\.conf"):
        plan([file()], {"/etc/a.conf": Found(kind)})


@pytest.mark.parametrize("kind", ["file", "symlink", "other"])
def test_refuses_another_kind_of_thing_in_place_of_a_directory(kind: str) -> None:
    with pytest.raises(Refused, match="/etc/fleet"):
        plan([], {"/etc/fleet": Found(kind)}, directories=[directory()])


@pytest.mark.parametrize("path", ["", "a.conf", "etc/a.conf", "/etc/../a.conf", "/etc//a.conf", "/etc/./a.conf", "/"])
def test_refuses_a_path_that_is_not_absolute_and_plain(path: str) -> None:
    with pytest.raises(Refused, match="path"):
        parse({"files": [file(path)]})


@pytest.mark.parametrize("mode", ["640", "416", "rw", "0888", "00640", ""])
def test_refuses_a_mode_that_is_not_four_octal_digits(mode: str) -> None:
    options = file(mode=mode)
    if mode == "":
        assert parse({"files": [options]})[1][0].mode == 0o644
        return
    with pytest.raises(Refused, match="in quotes"):
        parse({"files": [options]})


def test_refuses_a_secret_that_everyone_could_read() -> None:
    with pytest.raises(Refused, match="opens it to every user"):
        parse({"files": [file(content=None, secret_content="hush", mode="0644")]})


def test_refuses_a_path_listed_twice() -> None:
    with pytest.raises(Refused, match="listed twice"):
        parse({"files": [file("/etc/fleet")], "directories": [directory()]})


def test_refuses_a_validation_without_a_place_for_the_file() -> None:
    with pytest.raises(Refused, match="%s"):
        parse({"files": [file(validate=["true"])]})


def test_a_secret_has_a_closed_mode_unless_told_otherwise() -> None:
    assert parse({"files": [file(content=None, secret_content="hush")]})[1][0].mode == 0o600


def test_a_diff_shows_texts_and_attributes_apart() -> None:
    made = plan([file()], {"/etc/a.conf": found_file("old\n", mode=0o600)})
    assert [(entry["before_header"], entry["before"], entry["after"]) for entry in diff_of(made)] == [
        ("/etc/a.conf", "old\n", "new\n"),
        (
            "/etc/a.conf (owner, group, mode)",
            "owner: root\ngroup: root\nmode: 0600\n",
            "owner: root\ngroup: root\nmode: 0644\n",
        ),
    ]


def test_a_diff_never_shows_a_secret_neither_old_nor_new() -> None:
    wanted = file(content=None, secret_content="hush new")
    shown = repr(diff_of(plan([wanted], {"/etc/a.conf": found_file("hush old", mode=0o600)})))
    assert "not shown" in shown
    assert "hush" not in shown


def test_a_missing_parent_is_an_obstacle_that_names_it() -> None:
    nowhere = Found("absent", parent_is_directory=False)
    ((sentence, _),) = plan([file("/etc/none/a.conf")], {"/etc/none/a.conf": nowhere}).obstacles
    assert "/etc/none " in sentence


def test_a_parent_that_is_listed_is_no_obstacle() -> None:
    nowhere = Found("absent", parent_is_directory=False)
    made = plan([file("/etc/fleet/a")], {"/etc/fleet/a": nowhere}, directories=[directory()])
    assert made.obstacles == ()
    assert made.changed_paths == ["/etc/fleet", "/etc/fleet/a"]


def test_directories_come_parents_first_whatever_their_order() -> None:
    below = Found("absent", parent_is_directory=False)
    made = plan([], {"/etc/f/g": below}, directories=[directory("/etc/f/g"), directory("/etc/f")])
    assert made.changed_paths == ["/etc/f", "/etc/f/g"]
    assert made.obstacles == ()


def test_unknown_users_and_groups_are_obstacles() -> None:
    made = plan(
        [file(owner="nobody-here", group="no-group")],
        {},
        unknown_owners=frozenset({"nobody-here"}),
        unknown_groups=frozenset({"no-group"}),
    )
    assert ["user nobody-here" in made.obstacles[0][0], "group no-group" in made.obstacles[1][0]] == [True, True]
