# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""instance_info on a file system laid out as Debian's, with a real server in it."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.topology.host import instance_info, owner_file
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers, wait_until

PARAMS: dict[str, Any] = {
    "version": None,
    "name": "main",
    "data_directory": None,
    "packages": ["bash", "nope"],
    "roles": [],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bare host: what the kernel and Debian's base system have."""
    for path in ("proc/meminfo", "proc/net/fib_trie", "etc/os-release", "var/lib/dpkg/status"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text((Path("/") / path).read_text())
    return tmp_path


def info(root: Path, **changes: Any) -> dict[str, Any]:
    return instance_info({**PARAMS, **changes}, False, root=root).result


def install(server: Server, root: Path) -> None:
    """Put the server where Debian's configuration says it is."""
    config = root / f"etc/postgresql/{server.version}/main"
    config.mkdir(parents=True)
    (config / "postgresql.conf").write_text(f"data_directory = '{server.data}'\nport = {server.port}\n")


def own(server: Server, root: Path, cluster: str = "orders") -> None:
    path = owner_file(server.version, "main", root)
    path.parent.mkdir(parents=True, exist_ok=True)
    identifier = next(line.split()[-1] for line in server.control_data().splitlines() if "system identifier" in line)
    path.write_text(json.dumps({"cluster": cluster, "system_identifier": identifier}))


def test_a_bare_host_has_no_instance(root: Path) -> None:
    result = info(root)
    assert result["instance"]["state"] == "absent"
    assert result["instance"]["member"]["state"] == "absent"
    assert result["host"]["memory_mb"] > 100
    assert result["host"]["cpus"] >= 1
    assert list(result["host"]["packages"]) == ["bash"]
    assert result["version"] == result["host"]["postgresql_shipped"]
    (root / "var/lib/postgresql" / str(result["version"]) / "main").mkdir(parents=True)
    assert info(root)["instance"]["state"] == "empty"


def test_a_running_stopped_and_crashed_instance_of_ours(root: Path, servers: Servers) -> None:
    server = servers.primary("db1")
    install(server, root)
    own(server, root)
    result = info(root, version=server.version)["instance"]
    assert result["state"] == "running"
    assert result["member"]["in_recovery"] is False
    assert result["port"] == result["member"]["port"] == server.port
    assert result["data_directory_owner"] == server.data.owner()
    assert result["owner"]["cluster"] == "orders"
    json.dumps(result)
    assert info(root, version=server.version)["instance"]["member"]["timeline"] == 1
    server.stop()
    assert info(root, version=server.version)["instance"]["state"] == "stopped"
    server.start().kill()
    crashed = info(root, version=server.version)["instance"]
    assert crashed["state"] == "crashed"
    assert "in production" in crashed["reason"]


def test_data_without_our_mark_or_of_another_version_are_foreign(root: Path, servers: Servers) -> None:
    server = servers.server("db1").initdb()
    install(server, root)
    found = info(root, version=server.version)["instance"]
    assert found["state"] == "foreign"
    assert found["member"]["system_identifier"]
    own(server, root)
    assert info(root, version=server.version)["instance"]["state"] == "stopped"
    (server.data / "PG_VERSION").write_text("9.6\n")
    assert "PostgreSQL 9.6" in info(root, version=server.version)["instance"]["reason"]
    shutil.rmtree(server.data)
    server.data.mkdir()
    (server.data / "precious.txt").write_text("x")
    assert "no PostgreSQL data" in info(root, version=server.version)["instance"]["reason"]


def test_a_data_directory_without_configuration_is_seen_as_another_instance(root: Path) -> None:
    (root / "var/lib/postgresql/13/old/base").mkdir(parents=True)
    (root / "var/lib/postgresql/15/main.dbops-clone/base").mkdir(parents=True)
    (others,) = info(root, version=15)["instance"]["others"]
    assert (others["version"], others["name"], others["configured"]) == (13, "old", False)
    assert (others["empty"], others["owner"]) == (False, None)


def test_another_instance_is_told_with_our_mark_and_whether_it_has_data(root: Path) -> None:
    for version in (13, 14):
        config = root / f"etc/postgresql/{version}/main"
        config.mkdir(parents=True)
        (config / "postgresql.conf").write_text("")
    (root / "var/lib/postgresql/13/main/base").mkdir(parents=True)
    mark = owner_file(13, "main", root)
    mark.parent.mkdir(parents=True)
    mark.write_text(json.dumps({"cluster": "orders", "system_identifier": "7"}))
    found = {other["version"]: other for other in info(root, version=15)["instance"]["others"]}
    assert found[13]["owner"]["cluster"] == "orders"
    assert {version: (other["empty"], other["running"]) for version, other in found.items()} == {
        13: (False, False),
        14: (True, False),
    }


def test_the_marker_of_a_clone_is_reported(root: Path) -> None:
    place = root / "var/lib/postgresql/15"
    place.mkdir(parents=True)
    (place / "main.dbops-clone.json").write_text(json.dumps({"phase": "copying"}))
    found = info(root, version=15)["instance"]
    assert found["state"] == "interrupted_clone"
    assert found["clone"] == {"phase": "copying"}


def test_a_primary_and_its_standby_tell_which_roles_exist(tmp_path: Path, root: Path, servers: Servers) -> None:
    primary = servers.primary("db1")
    primary.sql('CREATE ROLE "orders_app"')
    primary.sql('CREATE ROLE "Odd\'s role"')
    standby = servers.replica("db2", of=primary)
    standby.wait_for_replay(primary)
    asked = ["Odd's role", "orders_read", "orders_app"]
    for server in (primary, standby):
        place = root / server.name
        shutil.copytree(root, place, ignore=shutil.ignore_patterns("db?"))
        install(server, place)
        found = info(place, version=server.version, roles=asked)["instance"]
        assert found["roles_present"] == ["Odd's role", "orders_app"], server.name
    primary.stop()
    install(primary, root)
    assert info(root, version=primary.version, roles=asked)["instance"]["roles_present"] is None


def reload(server: Server) -> None:
    """Reload it, as systemctl does: a while after the files were written."""
    time.sleep(0.05)
    before = server.value("SELECT pg_conf_load_time()")
    server.reload()
    wait_until(lambda: server.value("SELECT pg_conf_load_time()") > before, f"{server.name} to reload")


def pending(server: Server, root: Path) -> list[str] | None:
    found: list[str] | None = info(root, version=server.version)["instance"]["reload_pending"]
    return found


def test_files_that_a_reload_has_still_to_read_are_told_until_it_is_done(root: Path, servers: Servers) -> None:
    server = servers.primary("db1")
    install(server, root)
    reload(server)
    assert pending(server, root) == []
    included = server.data / "conf.d/50-fleet.conf"
    included.parent.mkdir()
    for path in (server.data / "pg_hba.conf", server.data / "pg_ident.conf", server.data / "postgresql.conf", included):
        content = path.read_text() if path.exists() else ""
        path.write_text(content + "# changed")
        assert pending(server, root) == [str(path)]
        assert pending(server, root) == [str(path)]
        reload(server)
        assert pending(server, root) == [], path
    included.touch()
    time.sleep(0.05)
    server.stop()
    assert pending(server, root) is None
    server.start()
    assert pending(server, root) == []


def test_a_file_that_was_put_in_place_with_an_older_time_is_still_to_be_read(root: Path, servers: Servers) -> None:
    server = servers.primary("db1")
    install(server, root)
    staged = server.data / ".staged"
    staged.write_text((server.data / "pg_hba.conf").read_text())
    shutil.copymode(server.data / "pg_hba.conf", staged)
    shutil.chown(staged, server.data.owner(), server.data.group())
    os.utime(staged, (0, 0))
    reload(server)
    assert pending(server, root) == []
    staged.rename(server.data / "pg_hba.conf")
    assert pending(server, root) == [str(server.data / "pg_hba.conf")]


def test_certificates_are_looked_at_where_the_server_has_them(root: Path, servers: Servers) -> None:
    authority = root / "authority.crt"
    authority.write_text("")
    server = servers.primary("db1", ssl_ca_file=str(authority), ssl_cert_file="relative.crt")
    install(server, root)
    reload(server)
    (server.data / "relative.crt").write_text("")
    authority.write_text("# renewed")
    assert pending(server, root) == [str(authority), str(server.data / "relative.crt")]


def test_what_alter_system_has_set_is_left_to_whoever_did_so(root: Path, servers: Servers) -> None:
    server = servers.primary("db1")
    install(server, root)
    reload(server)
    server.sql("ALTER SYSTEM SET work_mem = '7MB'")
    assert pending(server, root) == []


def test_a_standby_tells_what_it_has_still_to_read_too(root: Path, servers: Servers) -> None:
    standby = servers.replica("db2", of=servers.primary("db1"))
    install(standby, root)
    reload(standby)
    assert pending(standby, root) == []
    (standby.data / "pg_hba.conf").touch()
    assert pending(standby, root) == [str(standby.data / "pg_hba.conf")]


def test_reading_is_quick(root: Path, servers: Servers) -> None:
    server = servers.primary("db1")
    install(server, root)
    own(server, root)
    times = []
    for _ in range(5):
        started = time.monotonic()
        info(root, version=server.version)
        times.append(time.monotonic() - started)
    # The best of five: a busy machine makes single ones slow.
    assert min(times) < 0.3
