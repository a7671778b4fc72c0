# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PgBouncer's ini files: read and changed without losing anything."""

from __future__ import annotations

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.ini import Ini, format_target, parse_target

FILE = """\
;; a comment
[databases]
orders = host=10.0.0.1 port=5432

[users]
# nobody yet

;; Settings
[pgbouncer]
  listen_port=6432
;; how many
;max_client_conn = 100
pool_mode = session
pool_mode = transaction
auth_query = SELECT a, b FROM f($1) ; no comment
"""


def test_gives_back_the_text_as_it_was() -> None:
    assert Ini.parse(FILE).text() == FILE


def test_reads_entries_and_the_last_of_two_counts() -> None:
    assert Ini.parse(FILE).entries("pgbouncer") == {
        "listen_port": "6432",
        "pool_mode": "transaction",
        "auth_query": "SELECT a, b FROM f($1) ; no comment",
    }


def test_changes_a_value_where_it_stands_and_keeps_the_rest() -> None:
    changed = Ini.parse(FILE).with_entries("pgbouncer", {"listen_port": "7000"}).text()
    assert changed == FILE.replace("  listen_port=6432", "listen_port = 7000")


def test_an_entry_that_is_right_keeps_its_line() -> None:
    assert Ini.parse(FILE).with_entries("pgbouncer", {"listen_port": "6432"}).text() == FILE


def test_puts_a_new_entry_behind_its_commented_out_line() -> None:
    text = Ini.parse(FILE).with_entries("pgbouncer", {"max_client_conn": "1000"}).text()
    assert ";max_client_conn = 100\nmax_client_conn = 1000\n" in text


def test_puts_any_other_new_entry_at_the_end_of_its_section() -> None:
    text = Ini.parse(FILE).with_entries("databases", {"sales": "host=x"}).text()
    assert "port=5432\nsales = host=x\n\n[users]" in text


def test_purges_what_is_not_wanted() -> None:
    text = Ini.parse(FILE).with_entries("pgbouncer", {"listen_port": "6432"}, purge=True).text()
    assert "pool_mode" not in text
    assert ";max_client_conn = 100" in text


def test_an_empty_file_becomes_a_whole_one() -> None:
    ini = Ini.parse("").with_entries("pgbouncer", {"a": "1"}).with_entries("databases", {"d": "host=x"})
    assert ini.with_include("/i").text() == "[databases]\nd = host=x\n%include /i\n[pgbouncer]\na = 1\n"


def test_an_include_goes_above_the_settings_once() -> None:
    ini = Ini.parse(FILE).with_include("/etc/x.ini")
    assert "\n%include /etc/x.ini\n;; Settings\n[pgbouncer]\n" in ini.text()
    assert ini.with_include("/etc/x.ini") == ini
    assert Ini.parse(ini.text()).text() == ini.text()
    assert ini.includes() == ("/etc/x.ini",)


@pytest.mark.parametrize(
    "text",
    [
        "[databases]\nno equals sign\n",
        '[databases]\n"quoted" = host=x\n',
        "entry = without a section\n",
        "[databases]\n%include /f\na = host=x\n",
        "[pgbouncer]\na = 1\n[databases]\n[pgbouncer]\nb = 1\n",
    ],
)
def test_refuses_what_pgbouncer_reads_otherwise(text: str) -> None:
    with pytest.raises(FleetError, match=r"/etc/p\.ini, line \d"):
        Ini.parse(text, "/etc/p.ini")


def test_goes_on_behind_an_include_where_it_is_known_how_that_ends() -> None:
    ini = Ini.parse("%include /f\npeer_id = 2\n", behind_include="pgbouncer")
    assert ini.entries("pgbouncer") == {"peer_id": "2"}


@pytest.mark.parametrize(
    "pairs",
    [
        {"host": "10.0.0.1,10.0.0.2", "port": "5432"},
        {"connect_query": "SELECT set_config('a', 'it''s', false)", "dbname": 'we"ird db'},
        {"password": "a'b c", "user": "x"},
        {"application_name": ""},
        {},
    ],
)
def test_targets_survive_writing_and_reading(pairs: dict[str, str]) -> None:
    assert parse_target(format_target(pairs)) == pairs


def test_reads_the_same_target_in_other_words() -> None:
    assert parse_target("host = 'x'  port=1 dbname=''") == {"host": "x", "port": "1", "dbname": ""}


@pytest.mark.parametrize("text", ["host", "host='x", "host='x'port=1", "=x"])
def test_refuses_targets_that_pgbouncer_refuses(text: str) -> None:
    with pytest.raises(FleetError):
        parse_target(text)


def test_a_value_with_a_line_break_cannot_be_written() -> None:
    with pytest.raises(FleetError):
        format_target({"connect_query": "a\nb"})
