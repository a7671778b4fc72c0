# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What role postgres_server writes, as PostgreSQL itself understands it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.tests.integration.servers import Servers
from ansible_collections.dbops.fleet.tests.support.role import play, tls_files


@pytest.mark.parametrize(
    ("variables", "understood"),
    [
        (
            {"postgres_server_profile": "oltp", "postgres_server_synchronous": {"method": "FIRST", "number": 1}},
            {"synchronous_standby_names": 'FIRST 1 ("db-1", "db2")', "default_statistics_target": "100"}
            | {"max_connections": "200", "max_parallel_workers_per_gather": "1"},
        ),
        (
            {"postgres_server_profile": "olap", "postgres_server_synchronous": {"method": "any", "number": 2}},
            {"synchronous_standby_names": 'ANY 2 ("db-1", "db2")', "default_statistics_target": "500"}
            | {"max_connections": "50", "max_parallel_workers_per_gather": "4"},
        ),
    ],
    ids=["oltp, first", "olap, any"],
)
def test_postgresql_understands_the_settings_as_they_were_asked_for(
    tmp_path: Path, servers: Servers, variables: dict[str, Any], understood: dict[str, str]
) -> None:
    server = servers.server("db1").initdb()
    variables["postgres_server_synchronous"]["members"] = ["db-1", "db2"]
    host = {"memory_mb": 8192, "cpus": 4, "distribution_major_version": "12", "distribution": "Debian"}
    host["packages"] = dict.fromkeys((f"postgresql-{server.version}", "python3-psycopg", "acl"), "1")
    instance = {"state": "running", "disk_total_mb": 102400, "member": {"state": "running", "system_identifier": "7"}}
    known = {
        "postgres_server_action": "converge",
        "postgres_server_cluster": "orders",
        "postgres_server_member": "db-1",
        "postgres_server_facts": {"version": server.version, "host": host, "instance": instance},
        "postgres_server_passwords": {"fleet_replication": "secret", "fleet_operator": "secret"},
        "postgres_server_settings": {"application_name": "it's"},
        **tls_files(tmp_path),
    }
    played = play(tmp_path, "postgres_server", known | variables, answers={"managed_files": {"changed": False}})
    assert played.failures == []
    written = server.directory / "50-fleet.conf"
    written.write_text(played.files()[f"/etc/postgresql/{server.version}/main/conf.d/50-fleet.conf"])

    expected = {"cluster_name": "orders/db-1", "application_name": "it's", "shared_buffers": "262144", **understood}
    # In PostgreSQL's own units: blocks of 8 kB.
    asked = {
        name: server.run("postgres", "-C", name, "-D", str(server.data), "-c", f"config_file={written}").stdout.strip()
        for name in expected
    }
    assert asked == expected
