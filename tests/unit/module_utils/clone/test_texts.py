# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts that are read (progress, errors) and written (connection strings, settings)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.clone.explain import connection_failure, copy_failure
from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import (
    CloneRequest,
    Failure,
    Marker,
    Process,
    Source,
)
from ansible_collections.dbops.fleet.plugins.module_utils.clone.progress import Copied, figures, parse_line, sentence
from ansible_collections.dbops.fleet.plugins.module_utils.clone.settings import (
    auto_conf,
    conninfo,
    copy_conninfo,
    primary_conninfo,
    standby_settings,
    tablespace_mapping,
)

SOURCE = Source("10.0.0.1", sslrootcert="/etc/ca.crt", passfile="/etc/pgpass")
REQUEST = CloneRequest("/srv/main", 17, SOURCE, "db2", "/bin", slot="db2")
MARKER = Marker("id", REQUEST, "/srv/main.dbops-clone", "copying", Process(1, 1, "b"), "7", 100.0, 100.0)


# Progress


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("20496/31231 kB (65%), 0/1 tablespace (...ta.dbops-clone/base/5/1249)", Copied(20496 * 1024, 31231 * 1024)),
        ("    0/31231 kB (0%), 0/1 tablespace", Copied(0, 31231 * 1024)),
        ("31241/31241 kB (100%), 2/2 tablespaces", Copied(31241 * 1024, 31241 * 1024)),
        ("pg_basebackup: checkpoint completed", None),
        ("", None),
    ],
)
def test_reads_pg_basebackup_s_progress(line: str, expected: Copied | None) -> None:
    assert parse_line(line) == expected


def test_figures_of_a_running_copy() -> None:
    running = replace(MARKER, bytes_done=400_000_000, bytes_total=1_000_000_000, copy_started_at=102.0)
    values = figures(running, 106.0)
    assert [values[name] for name in ("percent", "mb_per_second", "eta_seconds", "elapsed_seconds")] == [
        40,
        100.0,
        6,
        6,
    ]
    assert sentence(running, 106.0) == "clones 10.0.0.1: 40 %, 400 MB of 1.0 GB, 100 MB/s, 6 s left"


def test_figures_before_the_first_byte_and_after_the_last() -> None:
    assert figures(MARKER, 101.0)["mb_per_second"] is None
    assert "waits for the checkpoint" in sentence(MARKER, 101.0)
    ended = replace(MARKER, phase="finished", bytes_done=2_000_000, copy_started_at=101.0, finished_at=103.0)
    assert (figures(ended, 999.0)["percent"], figures(ended, 999.0)["finished"]) == (100, True)
    assert sentence(ended, 999.0) == "cloned 2 MB from 10.0.0.1 in 3 s"


def test_more_bytes_than_estimated_are_never_more_than_all() -> None:
    more = replace(MARKER, bytes_done=1200, bytes_total=1000, copy_started_at=100.0)
    assert (figures(more, 101.0)["percent"], figures(more, 101.0)["eta_seconds"]) == (100, 0)


@pytest.mark.parametrize("phase", ["preparing", "verifying", "placing", "failed"])
def test_every_phase_has_a_sentence(phase: str) -> None:
    assert "10.0.0.1" in sentence(replace(MARKER, phase=phase, failure=Failure("why", "what")), 101.0)


# Errors


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('FATAL:  password authentication failed for user "u"', "does not accept the password of the role u"),
        ("fe_sendauth: no password supplied", "/etc/pgpass"),
        ('FATAL:  no pg_hba.conf entry for replication connection from host "10.0.0.2"', "does not cover"),
        ('FATAL:  role "u" does not exist', "has no role u"),
        ("FATAL:  must be superuser or replication role to start walsender", "REPLICATION"),
        ("FATAL:  number of requested standby connections exceeds max_wal_senders", "max_wal_senders"),
        ("SSL error: certificate verify failed", "No trusted TLS"),
        ('root certificate file "/etc/ca.crt" does not exist', "No trusted TLS"),
        ("FATAL:  the database system is starting up", "does not take sessions"),
        ("connection refused: Connection refused", "cannot be reached on port 5432"),
        ("connection timeout expired", "cannot be reached on port 5432"),
        ("could not translate host name", "cannot be reached"),
        ('FATAL:  database "postgres" does not exist', "the database postgres"),
        ("FATAL:  etwas anderes", "failed: FATAL: etwas anderes"),
    ],
)
def test_a_failed_connection_is_explained_with_a_remedy(text: str, words: str) -> None:
    failure = connection_failure(text, SOURCE, "u")
    assert words in f"{failure.message} {failure.remedy}"
    assert "10.0.0.1" in failure.message
    assert failure.remedy


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (["pg_basebackup: error: could not write to file: No space left on device"], "The disk is full: 1 GB left"),
        (['error: FATAL:  replication slot "db2" is active for PID 7'], "in use by somebody else"),
        (["error: requested WAL segment 000000010000000000000003 has already been removed"], "has removed WAL"),
        (["error: could not read COPY data: server closed the connection unexpectedly"], "broke off the copy"),
        (["error: connection failed: Connection refused"], "cannot be reached"),
        (["noise", "pg_basebackup: error: something new"], "exit code 1: pg_basebackup: error: something new"),
        ([], "it said nothing"),
    ],
)
def test_a_failed_copy_is_explained_with_a_remedy(messages: list[str], words: str) -> None:
    failure = copy_failure(messages, "exit code 1", REQUEST, "1 GB left")
    assert words in failure.message
    assert failure.remedy


# Settings


def test_connection_strings_quote_what_needs_it() -> None:
    assert (
        conninfo(host="a b", port=1, user=r"o'\k", empty="", left_out=None)
        == r"host='a b' port=1 user='o\'\\k' empty=''"
    )


def test_a_replica_streams_as_its_member_name_and_a_copy_does_not() -> None:
    assert primary_conninfo(SOURCE, "db2") == (
        "host=10.0.0.1 port=5432 user=fleet_replication sslmode=verify-full sslrootcert=/etc/ca.crt "
        "passfile=/etc/pgpass application_name=db2"
    )
    assert "application_name='clone of db2'" in copy_conninfo(SOURCE, "db2")


def test_settings_of_the_source_s_own_recovery_are_not_inherited() -> None:
    text = (
        "# Do not edit this file manually!\n"
        "work_mem = '64MB'\n"
        "primary_conninfo = 'host=old'\n"
        "PRIMARY_SLOT_NAME = 'old'\n"
        "recovery_min_apply_delay = '1h'\n"
        "recovery_target_time = '2026-01-01'\n"
        "recovery_target_timeline = 'latest'\n"
    )
    assert auto_conf(text, {"primary_slot_name": "db2"}) == (
        "# Do not edit this file manually!\nwork_mem = '64MB'\nprimary_slot_name = 'db2'\n"
    )


def test_settings_are_written_as_the_configuration_file_reads_them() -> None:
    assert auto_conf("", {"primary_conninfo": r"user='o\'k'"}) == "primary_conninfo = 'user=''o\\\\''k'''\n"


def test_slot_and_delay_are_written_only_when_asked_for() -> None:
    assert set(standby_settings(REQUEST)) == {"primary_conninfo", "primary_slot_name"}
    delayed = replace(REQUEST, slot=None, recovery_min_apply_delay="1h")
    assert set(standby_settings(delayed)) == {"primary_conninfo", "recovery_min_apply_delay"}


def test_an_equals_sign_in_a_tablespace_s_directory_is_escaped() -> None:
    assert tablespace_mapping("/a=b", "/c") == r"/a\=b=/c"
