# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A RELOAD that was missed is made up for, also where nothing that PgBouncer shows tells of it."""

from __future__ import annotations

import socket
import ssl
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.pooler import commands, deadman, files, loaded
from ansible_collections.dbops.fleet.tests.integration.pooler.test_module import entry, params
from ansible_collections.dbops.fleet.tests.integration.poolers import Pooler, Poolers
from ansible_collections.dbops.fleet.tests.integration.servers import Server, Servers


@pytest.fixture
def wanted(poolers: Poolers, database: Server) -> dict[str, Any]:
    """What a running pooler has: two databases, a user with a password."""
    pooler = poolers.start("pool1", {}, auth_type="scram-sha-256", auth_user="postgres")
    found = params(
        pooler,
        databases_file=str(pooler.directory / "fleet.ini"),
        databases=[entry("orders", database, pool_size=3), entry("old", database, dbname="orders")],
        purge_databases=True,
        userlist_file=str(pooler.directory / "userlist.txt"),
        users=[{"name": name, "state": "present", "password": f"of {name}"} for name in ("postgres", "operator")],
    )
    commands.manage(found, False)
    return found


def shown(poolers: Poolers, name: str) -> dict[str, Any]:
    """The row of SHOW DATABASES, empty where there is none."""
    with poolers.all[0].connect("pgbouncer", user="operator", password="of operator") as console:
        cursor = console.execute("SHOW DATABASES")
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
    return next((row for row in rows if row["name"] == name), {})


def logs_in(poolers: Poolers, password: str) -> bool:
    try:
        return bool(poolers.all[0].query("orders", "SELECT 1", password=password) == 1)
    except psycopg.OperationalError:
        return False


LOST: dict[str, tuple[Callable[[dict[str, Any]], object], Callable[[Poolers], object]]] = {
    "a pool size": (
        lambda wanted: wanted["databases"][0].update(pool_size=9),
        lambda poolers: str(shown(poolers, "orders")["pool_size"]) == "9",
    ),
    "a database less": (lambda wanted: wanted["databases"].pop(), lambda poolers: not shown(poolers, "old")),
    "another password": (
        lambda wanted: wanted["users"][0].update(password="another"),
        lambda poolers: logs_in(poolers, "another"),
    ),
}


@pytest.mark.parametrize(("change", "is_in_force"), LOST.values(), ids=LOST.keys())
def test_a_run_that_was_killed_before_its_reload_is_made_up_for(
    poolers: Poolers,
    wanted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Any]], object],
    is_in_force: Callable[[Poolers], object],
) -> None:
    change(wanted)
    with monkeypatch.context() as killed:
        killed.setattr(files, "_reload", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            commands.manage(wanted, False)
    assert not is_in_force(poolers)
    foreseen = commands.manage(wanted, True)
    assert foreseen.changed
    assert foreseen.result["changed_files"] == []
    assert "was not loaded as it is" in str(foreseen.diff)
    assert not is_in_force(poolers)
    assert commands.manage(wanted, False).changed
    assert is_in_force(poolers)
    again = commands.manage(wanted, False)
    assert not again.changed
    assert not again.diff


def certificate_of(pooler: Pooler) -> bytes:
    """What it shows to clients."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection((pooler.address, pooler.port), timeout=5) as plain:
        plain.sendall(struct.pack("!ii", 8, 80877103))  # PostgreSQL's request for TLS
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain) as encrypted:
            return encrypted.getpeercert(binary_form=True) or b""


def make_certificate(pooler: Pooler) -> None:
    key, certificate = (str(pooler.directory / name) for name in ("pooler.key", "pooler.crt"))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=pool1"]
    command = ["openssl", "req", "-x509", *curve, "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    for path in (key, certificate):
        pooler.write_file(Path(path).name, Path(path).read_text())


def test_a_certificate_that_others_changed_is_loaded_and_a_bad_one_refused(poolers: Poolers) -> None:
    pooler = poolers.make("pool1", {})
    make_certificate(pooler)
    paths = [str(pooler.directory / name) for name in ("pooler.crt", "pooler.key")]
    tls = {"client_tls_sslmode": "allow", "client_tls_cert_file": paths[0], "client_tls_key_file": paths[1]}
    wanted = params(pooler, settings=tls, further_files=paths)
    assert commands.manage(wanted, False).changed
    pooler.start()
    # What was written where nothing ran was loaded by the start.
    assert not commands.manage(wanted, False).changed
    before = certificate_of(pooler)
    make_certificate(pooler)
    # Whoever does not name it does not answer for it.
    assert not commands.manage({**wanted, "further_files": []}, False).changed
    assert commands.manage(wanted, True).changed
    assert certificate_of(pooler) == before
    assert commands.manage(wanted, False).changed
    assert certificate_of(pooler) != before
    assert not commands.manage(wanted, False).changed

    pooler.write_file("pooler.crt", "no certificate")
    for _ in range(2):
        with pytest.raises(Refused, match="does not start with this configuration"):
            commands.manage(wanted, False)


def test_without_a_note_a_process_that_runs_is_told_once(pool1: Pooler) -> None:
    assert commands.manage(params(pool1), True).changed
    assert not list(loaded.DIRECTORY.glob("*"))
    assert commands.manage(params(pool1), False).changed
    note = next(loaded.DIRECTORY.iterdir())
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert not commands.manage(params(pool1), False).changed
    note.write_text("{")
    assert commands.manage(params(pool1), False).changed
    assert not commands.manage(params(pool1), False).changed


def test_a_first_run_writes_and_what_is_then_started_needs_no_second(poolers: Poolers, database: Server) -> None:
    pooler = poolers.make("pool1", {})
    pooler.config_file.unlink()
    first = params(pooler, settings=pooler.settings, databases=[], databases_file=str(pooler.directory / "fleet.ini"))
    assert commands.manage(first, True).changed
    assert commands.manage(first, False).changed
    pooler.start()
    for check_mode in (True, False, True):
        again = commands.manage(first, check_mode)
        assert (again.changed, again.result["running"], again.warnings) == (False, True, ())


def test_without_purge_what_others_have_written_stays_even_where_nothing_is_named(
    poolers: Poolers, database: Server
) -> None:
    pooler = poolers.start("pool1", {})
    first = params(pooler, databases_file=str(pooler.directory / "fleet.ini"))
    commands.manage({**first, "databases": [entry("orders", database)]}, False)
    without = {**first, "databases": [], "purge_databases": False}
    assert not commands.manage(without, False).changed
    assert pooler.query("orders", "SELECT 1") == 1
    assert commands.manage({**without, "purge_databases": True}, False).changed
    assert "orders" not in str(pooler.console("SHOW DATABASES"))


def test_what_an_interrupted_change_of_roles_left_for_another_cluster_is_not_brought_into_use(
    poolers: Poolers, database: Server, servers: Servers
) -> None:
    pooler = poolers.start("pool1", {}, auth_user="postgres")
    orders, billing = (entry(name, database, dbname="postgres") for name in ("orders", "billing"))
    commands.manage(params(pooler, databases=[orders, billing]), False)
    new = servers.primary("db2")
    staged = params(pooler, state="staged", databases=[entry("billing", new, dbname="postgres")])
    commands.manage({**staged, "max_pause_seconds": 60.0}, False)
    deadman.disarm("manual")
    assert not commands.manage(params(pooler, databases=[orders]), False).changed
    assert pooler.query("billing", "SELECT inet_server_port()") == database.port
    main = str(pooler.config_file)
    assert loaded.noted(main) != loaded.digests([main])
    # Whoever answers for it brings it.
    assert commands.manage(params(pooler, databases=staged["databases"]), False).changed
    assert pooler.query("billing", "SELECT inet_server_port()") == new.port
    assert not commands.manage(params(pooler, databases=[orders]), False).changed
