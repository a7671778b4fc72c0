# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Role postgres_server by Ansible itself: what it writes, and when the server is told to read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.dbops.fleet.tests.support.role import Played, play, tls_files

HOST = {"memory_mb": 1024, "cpus": 2, "distribution_major_version": "12", "distribution": "Debian"}
PACKAGES = dict.fromkeys(("postgresql-15", "python3-psycopg", "acl"), "1")
MEMBER = {"state": "running", "system_identifier": "7"}
INSTANCE = {"state": "running", "owner": None, "disk_total_mb": 10240, "member": MEMBER}
UNREAD = ["/etc/postgresql/15/main/pg_hba.conf"]
WRITE = "dbops.fleet.postgres_server : Converge | Write its files"
RELOAD = "dbops.fleet.postgres_server : Reload postgresql"


def converge(
    directory: Path,
    *,
    written: bool = False,
    unread: list[str] | None = None,
    check_mode: bool = False,
    instance: Mapping[str, Any] = INSTANCE,
    **more: Any,
) -> Played:
    facts = {"version": 15, "host": {**HOST, "packages": PACKAGES}, "instance": {**instance, "reload_pending": unread}}
    variables = {
        "postgres_server_cluster": "orders",
        "postgres_server_action": "converge",
        "postgres_server_facts": facts,
        "postgres_server_passwords": {"fleet_replication": "secret", "fleet_operator": "secret"},
        **tls_files(directory),
        **more,
    }
    answers = {"managed_files": {"changed": written, "changed_paths": []}}
    return play(directory, "postgres_server", variables, answers=answers, check_mode=check_mode)


@pytest.mark.parametrize(
    ("written", "unread"),
    [(True, None), (True, []), (False, UNREAD)],
    ids=["written", "written after a look", "unread"],
)
def test_the_server_is_told_what_it_has_not_read_whoever_wrote_it(
    tmp_path: Path, written: bool, unread: list[str] | None
) -> None:
    played = converge(tmp_path, written=written, unread=unread)
    assert played.failures == []
    assert played.changed[0] == WRITE
    assert RELOAD in played.changed
    assert "reload postgresql@15-main" in played.systemctl


@pytest.mark.parametrize(
    "changes",
    [{"state": "foreign"}, {"member": {**MEMBER, "state": "unreachable"}}],
    ids=["made by hand", "without psycopg"],
)
def test_a_server_that_runs_is_told_whatever_else_it_is(tmp_path: Path, changes: dict[str, Any]) -> None:
    played = converge(tmp_path, written=True, instance={**INSTANCE, **changes})
    assert played.failures == []
    assert "reload postgresql@15-main" in played.systemctl


@pytest.mark.parametrize("unread", [None, []], ids=["takes no sessions", "has read all"])
def test_nothing_changes_where_all_is_written_and_read(tmp_path: Path, unread: list[str] | None) -> None:
    played = converge(tmp_path, unread=unread)
    assert (played.failures, played.changed, played.systemctl) == ([], [], [])


def test_check_mode_tells_of_the_reload_and_does_none(tmp_path: Path) -> None:
    played = converge(tmp_path, unread=UNREAD, check_mode=True)
    assert played.failures == []
    assert played.changed[0] == WRITE
    assert RELOAD in played.changed
    assert played.systemctl == []


def test_a_certificate_that_is_not_on_the_controller_is_missed_and_not_made_up(tmp_path: Path) -> None:
    played = converge(tmp_path, postgres_server_tls_key_file=str(tmp_path / "server.kez"))
    assert "server.kez" in played.failures[0]
    assert played.changed == []


def test_libpq_finds_every_password_as_it_is(tmp_path: Path) -> None:
    passwords = {"fleet_replication": r"a:b\c", "fleet_operator": r"\\::#'\""}
    (tmp_path / "role").mkdir()
    played = converge(tmp_path / "role", postgres_server_passwords=passwords)
    passfile = tmp_path / "pgpass"
    passfile.write_text(played.files()["/etc/dbops-fleet/pgpass"])
    passfile.chmod(0o600)
    for role, password in passwords.items():
        conninfo = psycopg.conninfo.make_conninfo(host="127.0.0.1", port=1, user=role, passfile=str(passfile))
        # It looks when the connection is begun; nobody has to listen.
        assert psycopg.pq.PGconn.connect_start(conninfo.encode()).password == password.encode(), role
