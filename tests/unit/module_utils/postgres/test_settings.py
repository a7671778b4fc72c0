# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings by memory, processors, disk and profile."""

from __future__ import annotations

import itertools
import re

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.settings import (
    PROFILES,
    read_conf_value,
    recommended_settings,
)


def megabytes(value: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(MB|GB)", value).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit == "GB" else 1)


def test_a_host_of_8_gb_for_oltp() -> None:
    settings = recommended_settings(8192, cpus=4)
    assert settings["shared_buffers"] == "2GB"
    assert settings["max_connections"] == "200"
    assert megabytes(settings["effective_cache_size"]) > 5000
    assert settings["wal_log_hints"] == "on"
    assert settings["wal_level"] == "replica"
    assert settings["wal_retrieve_retry_interval"] == "100ms"
    assert settings["password_encryption"] == "scram-sha-256"
    assert settings["ssl_key_file"] == "/etc/dbops-fleet/server.key"


@pytest.mark.parametrize("profile", PROFILES)
def test_no_host_is_promised_more_memory_than_it_has(profile: str) -> None:
    for memory, cpus in itertools.product((512, 1024, 4096, 16384, 262144), (1, 4, 64)):
        settings = recommended_settings(memory, cpus=cpus, profile=profile)
        shared = megabytes(settings["shared_buffers"])
        assert shared <= memory * 0.25
        busy = min(int(settings["max_connections"]), max(8, 4 * cpus))
        # The least work_mem is 4 MB, which few busy connections use up on the smallest hosts.
        assert shared + busy * megabytes(settings["work_mem"]) <= memory or settings["work_mem"] == "4MB"
        assert megabytes(settings["min_wal_size"]) <= megabytes(settings["max_wal_size"])


def test_replicas_of_every_size_can_follow_a_primary_of_any_size() -> None:
    names = ("max_connections", "max_worker_processes", "max_wal_senders")
    large, small = recommended_settings(262144, cpus=96), recommended_settings(4096, cpus=1)
    assert [large[name] for name in names] == [small[name] for name in names]


def test_write_ahead_log_never_takes_the_whole_disk() -> None:
    for disk in (10240, 102400, 4194304):
        settings = recommended_settings(65536, profile="olap", disk_mb=disk)
        assert megabytes(settings["max_wal_size"]) + megabytes(settings["max_slot_wal_keep_size"]) <= disk / 2


def test_single_settings_are_overridden_added_and_taken_out() -> None:
    settings = recommended_settings(
        8192, overrides={"work_mem": "32MB", "jit": False, "pg_stat_statements.max": 5000, "wal_buffers": None}
    )
    assert settings["work_mem"] == "32MB"
    assert settings["jit"] == "off"
    assert settings["pg_stat_statements.max"] == "5000"
    assert "wal_buffers" not in settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory_mb": 8192, "profile": "web"}, "oltp, olap, small"),
        ({"memory_mb": 64}, "too little"),
        ({"memory_mb": 8192, "cpus": 0}, "processors"),
        ({"memory_mb": 8192, "version": 12}, "not supported"),
        ({"memory_mb": 8192, "disk_mb": 10}, "disk"),
        ({"memory_mb": 8192, "overrides": {"bad name": 1}}, "not the name of a setting"),
        ({"memory_mb": 8192, "overrides": {"work_mem": "1\n2"}}, "line break"),
    ],
)
def test_refuses_what_cannot_be(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommended_settings(**arguments)  # type: ignore[arg-type]


def test_configuration_files_are_read_as_postgresql_reads_them() -> None:
    text = "port = 5433 # comment\n# port = 1\ndata_directory='/srv/it''s'\nPort 5434\nsupport = 9\n"
    assert read_conf_value(text, "port") == "5434"
    assert read_conf_value(text, "data_directory") == "/srv/it's"
    assert read_conf_value(text, "ssl") is None
