# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""instance_start with real servers that run: the mark that gets its identifier, and the look whether a replica streams.

What starts one through systemd is shown on test hosts, by Molecule and tests/setup.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.plugins.filter.core import to_nice_json

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.topology import start
from ansible_collections.dbops.fleet.plugins.module_utils.topology.host import owner_file
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers


def install(server: Server, root: Path) -> None:
    """Put the server where Debian's configuration says it is."""
    config = root / f"etc/postgresql/{server.version}/main"
    config.mkdir(parents=True)
    (config / "postgresql.conf").write_text(f"data_directory = '{server.data}'\nport = {server.port}\n")


def mark(server: Server, root: Path, content: dict[str, Any]) -> Path:
    path = owner_file(server.version, "main", root)
    path.parent.mkdir(parents=True)
    path.write_text(to_nice_json(content) + "\n")
    return path


def run(server: Server, root: Path, *, streaming: bool = False, check_mode: bool = False) -> Any:
    params = {"version": server.version, "name": "main", "streaming": streaming}
    return start.instance_start(params, check_mode, root=root)


def test_a_mark_from_before_the_data_gets_their_identifier_once(tmp_path: Path, servers: Servers) -> None:
    server = servers.primary("db1")
    install(server, tmp_path)
    peers = [{"name": "db2", "address": "192.0.2.2", "port": 5432}]
    path = mark(server, tmp_path, {"cluster": "orders", "system_identifier": None, "peers": peers})
    before = path.read_text()
    assert run(server, tmp_path, check_mode=True).changed
    assert path.read_text() == before

    outcome = run(server, tmp_path)

    identifier = str(server.value("SELECT system_identifier FROM pg_control_system()"))
    assert outcome.changed
    assert outcome.result["instance"]["owner"]["system_identifier"] == identifier
    # As the template of the role writes it: its next run changes nothing.
    wanted = {"cluster": "orders", "system_identifier": identifier, "peers": peers}
    assert path.read_text() == to_nice_json(wanted) + "\n"
    assert not run(server, tmp_path).changed


def test_a_mark_of_other_data_is_left_as_it_is(tmp_path: Path, servers: Servers) -> None:
    server = servers.primary("db1")
    install(server, tmp_path)
    path = mark(server, tmp_path, {"cluster": "orders", "system_identifier": "1", "peers": []})
    assert not run(server, tmp_path).changed
    assert json.loads(path.read_text())["system_identifier"] == "1"


def test_a_server_without_a_mark_gets_none(tmp_path: Path, servers: Servers) -> None:
    server = servers.primary("db1")
    install(server, tmp_path)
    assert not run(server, tmp_path).changed
    assert not owner_file(server.version, "main", tmp_path).exists()


def test_returns_when_the_replica_streams(tmp_path: Path, servers: Servers) -> None:
    primary = servers.primary("db1")
    replica = servers.replica("db2", of=primary)
    install(replica, tmp_path)
    outcome = run(replica, tmp_path, streaming=True)
    assert not outcome.changed
    assert outcome.result["instance"]["member"]["receiver"]["status"] == "streaming"


def test_a_replica_that_does_not_stream_is_an_error_with_the_end_of_its_log(
    tmp_path: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = servers.primary("db1")
    replica = servers.replica("db2", of=primary)
    install(replica, tmp_path)
    primary.stop()
    monkeypatch.setattr(start, "_STREAMING_SECONDS", 0.5)
    with pytest.raises(OperationFailed, match="runs, but does not stream") as caught:
        run(replica, tmp_path, streaming=True)
    assert "See whether the upstream runs" in str(caught.value)
