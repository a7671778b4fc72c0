# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the files shall hold, and whether a process goes by them."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.facts import Database, PoolerFacts, Setting
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.plan import (
    Wanted,
    changed_files,
    diff,
    difference,
    not_loaded,
    others_wait,
    setting_text,
)

MAIN = "/etc/pgbouncer/pgbouncer.ini"
DATABASES = "/etc/pgbouncer/fleet.ini"
USERS = "/etc/pgbouncer/userlist.txt"


def params(**more: Any) -> dict[str, Any]:
    return {
        "state": "present",
        "config_file": MAIN,
        "databases_file": DATABASES,
        "userlist_file": USERS,
        "settings": {},
        "databases": [],
        "users": [],
        "further_files": [],
        "open_files": None,
        "purge_settings": False,
        "purge_databases": False,
        "purge_users": False,
        **more,
    }


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "state": "present", "host": [], **more}


def test_writes_all_files_of_a_new_pooler() -> None:
    wanted = Wanted.from_params(
        params(
            databases=[entry("orders_ro", host=["10.0.0.2", "10.0.0.3"], port=5432, dbname="orders")],
            settings={"pool_mode": "transaction"},
            users=[{"name": "app", "state": "present", "password": "x", "max_user_connections": 3}],
        )
    )
    assert changed_files(wanted, {}) == {
        MAIN: f"[users]\napp = max_user_connections=3\n%include {DATABASES}\n[pgbouncer]\npool_mode = transaction\n",
        DATABASES: "[databases]\norders_ro = host=10.0.0.2,10.0.0.3 port=5432 dbname=orders\n",
        USERS: '"app" "x"\n',
    }


def test_nothing_changes_when_everything_is_there_in_other_words() -> None:
    wanted = Wanted.from_params(params(databases=[entry("a", host=["h"], port=1)], settings={"b": 1}))
    found = {
        MAIN: f"%include {DATABASES}\n[pgbouncer]\nb=1\n",
        DATABASES: "[databases]\na = port='1'   host=h\n",
        USERS: "",
    }
    assert changed_files(wanted, found) == {}


def test_absent_takes_out_and_purge_takes_out_the_rest() -> None:
    found = {MAIN: f"%include {DATABASES}\n", DATABASES: "[databases]\na = host=x\nb = host=x\n", USERS: ""}
    absent = Wanted.from_params(params(state="absent", databases=[entry("a")]))
    assert changed_files(absent, found) == {DATABASES: "[databases]\nb = host=x\n"}
    purge = Wanted.from_params(params(databases=[entry("b", host=["x"])], purge_databases=True))
    assert changed_files(purge, found) == {DATABASES: "[databases]\nb = host=x\n"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "1"), (False, "0"), (0.2, "0.2"), (1000, "1000"), (["a", "b"], "a, b"), (None, ""), ("x y", "x y")],
)
def test_settings_are_written_as_pgbouncer_reads_them(value: Any, text: str) -> None:
    assert setting_text(value) == text


@pytest.mark.parametrize(
    "wrong",
    [
        {"databases": [entry("a"), entry("a")]},
        {"databases": [entry('we"ird db')]},
        {"settings": {"a": "x\ny"}},
        {"userlist_file": None, "users": [{"name": "u", "state": "present", "password": "x"}]},
    ],
)
def test_refuses_what_files_cannot_hold(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        Wanted.from_params(params(**wrong))


def test_a_diff_has_no_secrets() -> None:
    wanted = Wanted.from_params(
        params(
            databases=[entry("a", host=["x"], password="s3cret")],
            users=[{"name": "u", "state": "present", "password": "h1dden"}],
        )
    )
    found = {USERS: '"u" "0ld"\n'}
    shown = str(diff(wanted, found, changed_files(wanted, found)))
    assert "password=********" in shown
    assert '"u" "********" (changed)' in shown
    assert not [secret for secret in ("s3cret", "h1dden", "0ld") if secret in shown]
    assert "h1dden" not in repr(wanted)


def running(**settings: tuple[str, bool]) -> PoolerFacts:
    return PoolerFacts(
        "pool1",
        databases=(Database.from_row({"name": "a", "host": "x", "port": "5432", "database": "a", "paused": "0"}),),
        settings={name: Setting(name, value, "5", changeable) for name, (value, changeable) in settings.items()},
    )


def test_says_what_a_reload_and_what_a_restart_would_bring() -> None:
    facts = running(max_client_conn=("100", True), listen_port=("6432", False), server_login_retry=("0.20", True))
    wanted = Wanted.from_params(
        params(settings={"max_client_conn": 1000, "listen_port": 7000, "server_login_retry": 0.2, "newer": 1})
    )
    found = difference(wanted, facts)
    assert found.pending == ("max_client_conn is '100', not '1000'",)
    assert found.restart == ("listen_port",)


def test_the_mode_of_the_socket_is_octal_in_the_file_and_decimal_at_the_console() -> None:
    wanted = Wanted.from_params(params(settings={"unix_socket_mode": "0777"}))
    assert difference(wanted, running(unix_socket_mode=("511", False))).restart == ()


def test_a_setting_that_is_named_nowhere_falls_back_to_its_default() -> None:
    wanted = Wanted.from_params(params(purge_settings=True))
    found = difference(wanted, running(min_pool_size=("7", True), listen_backlog=("999", False)))
    assert found.pending == ("min_pool_size is '7', not '5'",)
    # Whichever run took it out: only a restart brings it.
    assert found.restart == ("listen_backlog",)
    facts = PoolerFacts("pool1", settings={"conffile": Setting("conffile", MAIN, None, True)})
    assert not difference(wanted, facts).pending


def test_what_a_process_has_of_its_own_is_no_difference() -> None:
    wanted = Wanted.from_params(params(settings={"unix_socket_dir": "/run/a"}))
    facts = running(unix_socket_dir=("/run/b", False))
    assert difference(wanted, facts).restart == ("unix_socket_dir",)
    assert difference(wanted, facts, {"unix_socket_dir": "/run/b"}).restart == ()
    purged = Wanted.from_params(params(purge_settings=True))
    assert difference(purged, running(peer_id=("2", True)), {"peer_id": "2"}).pending == ()


def test_a_file_that_is_new_gone_or_another_one_is_not_loaded() -> None:
    loaded = {MAIN: "1", USERS: "2", "/etc/gone": "3", "/etc/of_others": "4"}
    present = {MAIN: "1", USERS: "9", DATABASES: "5"}
    assert not_loaded([MAIN, USERS, DATABASES, "/etc/gone"], loaded, present) == (USERS, DATABASES, "/etc/gone")
    assert not_loaded([MAIN, "/etc/nowhere"], loaded, present) == ()


def test_databases_that_point_elsewhere_or_are_unknown_are_pending() -> None:
    wanted = Wanted.from_params(
        params(databases=[entry("a", host=["y"]), entry("b", host=["x"]), entry("*", host=["x"])])
    )
    assert difference(wanted, running()).pending == ("a points to x:5432/a, not to y:5432/a", "b is unknown")


def test_what_is_staged_for_others_waits_for_them() -> None:
    """A RELOAD for one cluster must not bring what an interrupted change of roles of another one has written."""
    facts = [running()]
    staged = {DATABASES: "[databases]\na = host=y\n"}
    assert others_wait(Wanted.from_params(params(databases=[entry("b", host=["x"])])), staged, facts)
    assert not others_wait(Wanted.from_params(params(databases=[entry("a", host=["x"])])), staged, facts)
    assert not others_wait(Wanted.from_params(params(purge_databases=True)), staged, facts)
    assert not others_wait(Wanted.from_params(params()), {DATABASES: "[databases]\na = host=x\n* = host=y\n"}, facts)
