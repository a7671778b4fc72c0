# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""setup.yml over a cluster that serves: it changes what the inventory asks for, and never data or roles.

The tests share one cluster and run in the order of this file; the last one promotes a replica by hand.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet
from hosts.fixtures import Hosts

CA = "/etc/dbops-fleet/ca.crt"


@pytest.fixture(scope="module")
def serving(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """The cluster orders: pg1 primary, pg2 replica, pool1; with three rows of an application."""
    fleet = Fleet(hosts, tmp_path_factory.mktemp("serving"))
    hosts.reset("pg1", "pg2", "pg3", "pool1")
    fleet.member("pg1", fleet_initial_primary=True)
    fleet.member("pg2")
    fleet.pooler("pool1", "orders")
    assert fleet.setup().ok
    fleet.sql("pg1", "SET ROLE orders_app; CREATE TABLE sold AS SELECT unnest(ARRAY['chair', 'lamp', 'table']) AS what")
    return fleet


@pytest.fixture
def orders(serving: Fleet) -> Iterator[Fleet]:
    """That cluster, with the proof that the test has not touched its primary or its rows."""
    names = [name for name in ("pg1", "pg2") if serving.sql(name, "SELECT NOT pg_is_in_recovery()", "postgres") == "t"]
    before = {name: serving.identity(name) for name in names}
    members = dict(serving.members)
    variables = dict(serving.variables)
    yield serving
    assert {name: serving.identity(name) for name in names} == before
    serving.members = members
    serving.variables = variables


def served_by(fleet: Fleet, entry: str) -> str:
    """Log in through the pooler as the application; returns the address of the server that it got to."""
    password = (fleet.secrets / "passwords/orders/orders_app").read_text().strip()
    address = fleet.hosts.address("pool1")
    return fleet.hosts.ssh(
        "pool1",
        f"PGPASSWORD={password} psql -XAtq 'host={address} port=6432 dbname={entry} user=orders_app "
        f"sslmode=verify-full sslrootcert={CA}' -c 'SELECT host(inet_server_addr())'",
    ).strip()


def test_changes_nothing_on_any_host_when_run_again(orders: Fleet) -> None:
    run = orders.setup()
    assert run.ok
    assert run.changed == dict.fromkeys(["pg1", "pg2", "pool1"], 0)
    assert "orders: healthy, primary pg1" in run.text
    address = orders.hosts.address("pool1")
    assert f"read and write: postgresql://orders_app@{address}:6432/orders?sslmode=verify-full" in run.text
    assert f"read only: postgresql://orders_read@{address}:6432/orders_ro?sslmode=verify-full" in run.text


def test_reports_a_host_that_cannot_be_reached_and_leaves_the_rest_alone(orders: Fleet) -> None:
    with orders.hosts.power_loss("pg2"):
        run = orders.setup()
        assert run.says("pg2 could not be reached", "Bring it back and run again")
        assert run.changed["pg1"] == 0
        assert served_by(orders, "orders") == orders.hosts.address("pg1")
        # Readers are served by the primary meanwhile.
        assert served_by(orders, "orders_ro") == orders.hosts.address("pg1")
    # Logins work before the end of the boot, which starts PostgreSQL.
    orders.hosts.ssh("pg2", "systemctl is-system-running --wait || true")
    run = orders.setup()
    assert run.ok
    assert served_by(orders, "orders_ro") == orders.hosts.address("pg2")


def test_refuses_to_invent_passwords_for_a_cluster_that_has_others(orders: Fleet, tmp_path: Path) -> None:
    kept = orders.secrets
    orders.secrets = tmp_path / "empty"
    try:
        run = orders.setup()
    finally:
        orders.secrets = kept
    assert run.says("the controller does not hold", "fleet_secrets_directory", "fleet_passwords")
    assert not (tmp_path / "empty" / "passwords").exists()
    assert served_by(orders, "orders") == orders.hosts.address("pg1")


def test_refuses_to_invent_the_one_password_that_is_lost(orders: Fleet) -> None:
    file = orders.secrets / "passwords/orders/orders_app"
    kept = file.read_text()
    file.unlink()
    try:
        run = orders.setup()
        assert run.says("the controller does not hold orders/orders_app below")
        assert not file.exists()
    finally:
        file.write_text(kept)
    assert served_by(orders, "orders") == orders.hosts.address("pg1")


def test_refuses_a_new_ca_for_hosts_that_trust_another(orders: Fleet) -> None:
    kept = (orders.secrets / "ca").rename(orders.secrets / "elsewhere")
    try:
        run = orders.setup()
        assert run.says("There is no CA in", "fleet_secrets_directory")
        assert not (orders.secrets / "ca").exists()
    finally:
        kept.rename(orders.secrets / "ca")
    assert served_by(orders, "orders") == orders.hosts.address("pg1")


def test_adds_a_database_with_new_passwords_to_a_cluster_that_has_others(orders: Fleet) -> None:
    orders.variables["postgres_primary_databases"] = [{"name": "orders"}, {"name": "Re-turns", "owner": "Returns-app"}]
    run = orders.setup()
    assert run.ok
    assert run.changed["pg2"] == 0
    assert orders.sql("pg2", "SELECT pooler FROM fleet.proof", "Re-turns") == "pool1"
    assert "postgresql://Returns-app@" in run.text
    assert "/Re-turns_ro?" in run.text
    assert set(orders.setup().changed.values()) == {0}
    orders.sql("pg1", 'DROP DATABASE "Re-turns" WITH (FORCE)', "postgres")
    orders.variables.clear()
    assert orders.setup().ok


def test_names_a_pooler_that_cannot_be_reached_at_the_end(orders: Fleet) -> None:
    """Also where the hosts are observed a second time, here because a setting was changed."""
    orders.variables["postgres_server_settings"] = {"work_mem": "9MB"}
    with orders.hosts.power_loss("pool1"):
        run = orders.setup()
        assert run.says("pool1 could not be reached and was left out", "orders: healthy, primary pg1")
        assert run.failed == {"pool1"}
    orders.variables.clear()
    orders.hosts.ssh("pool1", "systemctl is-system-running --wait || true")
    assert orders.setup().ok


def test_leaves_the_poolers_as_they_are_while_the_primary_cannot_be_reached(serving: Fleet) -> None:
    with serving.hosts.power_loss("pg1"):
        run = serving.setup()
        assert run.says(
            "pg1 could not be reached", "entries of orders stay as they were", "no member of it takes writes"
        )
        assert run.failed == {"pg1", "pool1"}
    serving.hosts.ssh("pg1", "systemctl is-system-running --wait || true")
    assert served_by(serving, "orders") == serving.hosts.address("pg1")


def test_leaves_the_poolers_as_they_are_while_the_primary_is_stopped(serving: Fleet) -> None:
    """Clients are served again as soon as the primary is back, without another run."""
    serving.hosts.ssh("pg1", "systemctl stop postgresql@17-main")
    try:
        run = serving.setup()
        assert run.says(
            "pool1 was left as it is", "entries of orders stay as they were", "no member of it takes writes"
        )
        assert run.failed == {"pool1"}
        # The report is there all the same.
        assert "orders: NOT HEALTHY" in run.text
    finally:
        serving.hosts.ssh("pg1", "systemctl start postgresql@17-main")
    assert served_by(serving, "orders") == serving.hosts.address("pg1")
    assert serving.setup().ok


def test_a_wrong_password_is_refused_until_the_next_run_has_set_it(orders: Fleet) -> None:
    """The controller's password counts; who has another one does not get in."""
    file = orders.secrets / "passwords/orders/orders_app"
    file.write_text(file.read_text().strip()[::-1] + "\n")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        served_by(orders, "orders")
    assert "authentication failed" in caught.value.stderr
    run = orders.setup()
    assert run.ok
    assert run.changed["pg1"] == 1
    assert run.changed["pg2"] == run.changed["pool1"] == 0
    assert served_by(orders, "orders") == orders.hosts.address("pg1")


def test_a_run_for_one_host_leaves_the_others_alone(orders: Fleet) -> None:
    run = orders.setup("--limit=pg2")
    assert run.ok
    assert run.changed == {"pg2": 0}


def test_takes_passwords_from_a_credential(orders: Fleet) -> None:
    """As in AWX; the CA and the certificates stay in the directory."""
    files = [path for path in (orders.secrets / "passwords").rglob("*") if path.is_file()]
    given = {path.name: path.read_text().strip() for path in files}
    hidden = (orders.secrets / "passwords").rename(orders.secrets / "hidden")
    try:
        run = orders.setup(fleet_passwords=given)
        assert run.ok
        assert set(run.changed.values()) == {0}
        assert not (orders.secrets / "passwords").exists()
        assert not [name for name, password in given.items() if password in run.text]
    finally:
        hidden.rename(orders.secrets / "passwords")


def test_several_processes_of_a_pooler_and_back_to_one(orders: Fleet) -> None:
    """With a client connected nothing is restarted unless that was allowed, and the run says what waits."""
    password = (orders.secrets / "passwords/orders/orders_app").read_text().strip()
    address = orders.hosts.address("pool1")
    client = (
        f"PGPASSWORD={password} psql -XAtq 'host={address} port=6432 dbname=orders user=orders_app "
        f"sslmode=verify-full sslrootcert={CA}' -c 'SELECT pg_sleep(600)'"
    )
    processes = "pgrep --count --exact pgbouncer"
    orders.hosts.ssh("pool1", f'systemd-run --quiet --unit=client bash -c "{client}"')
    orders.variables["pgbouncer_processes"] = 2
    try:
        run = orders.setup()
        assert "pgbouncer_restart_enabled" in run.text
        assert orders.hosts.ssh("pool1", processes).strip() == "1"
        assert orders.hosts.ssh("pool1", "systemctl is-active client").strip() == "active"
        assert "pgbouncer_restart_enabled" in orders.setup().text
    finally:
        orders.hosts.ssh("pool1", "systemctl stop client")
    for number in (2, 4, 1):
        orders.variables["pgbouncer_processes"] = number
        assert orders.setup().ok
        assert orders.hosts.ssh("pool1", processes).strip() == str(number)
        assert served_by(orders, "orders") == orders.hosts.address("pg1")
        assert set(orders.setup().changed.values()) == {0}


def test_refuses_settings_that_a_running_server_would_not_take(orders: Fleet) -> None:
    orders.variables["postgres_server_settings"] = {"work_mem": "plenty"}
    for name in ("pg1", "pg2"):
        orders.mark(name)
    run = orders.setup()
    assert run.says("work_mem")
    # The new file was staged in its directory and taken away again; no file is another.
    touched = {path for name in ("pg1", "pg2") for path in orders.touched(name) if path.startswith("/etc/")}
    assert touched <= {"/etc/postgresql/17/main/conf.d"}


def test_reloads_a_setting_and_reports_one_that_needs_a_restart(orders: Fleet) -> None:
    """Never a restart that nobody asked for."""
    orders.variables["postgres_server_settings"] = {"work_mem": "9MB", "max_connections": 123}
    checked = orders.setup("--check", "--diff")
    assert checked.ok
    assert min(checked.changed["pg1"], checked.changed["pg2"]) > 0
    assert "+work_mem = '9MB'" in checked.text
    assert orders.sql("pg1", "SHOW work_mem") != "9MB"
    run = orders.setup()
    assert run.ok
    assert orders.sql("pg1", "SHOW work_mem") == orders.sql("pg2", "SHOW work_mem") == "9MB"
    assert "needs a restart for max_connections" in run.text
    orders.variables.clear()
    assert orders.setup().ok
    assert orders.sql("pg1", "SHOW work_mem") != "9MB"


def test_full_disk_while_cloning_is_told_and_the_next_run_finishes(orders: Fleet) -> None:
    """The other database hosts report no change in either run: adding a host touches no other."""
    orders.member("pg3")
    orders.sql("pg1", "CREATE TABLE ballast AS SELECT repeat(md5(i::text), 200) FROM generate_series(1, 20000) AS i")
    try:
        with orders.hosts.full_disk("pg3", "/var/lib/postgresql", leave_mb=20):
            run = orders.setup()
        assert run.says("pg3", "the clone needs"), run.text
        assert "pg3" in run.failed
        assert run.changed["pg1"] == run.changed["pg2"] == 0
        run = orders.setup()
        assert run.ok
        assert run.changed["pg1"] == run.changed["pg2"] == 0
        assert orders.sql("pg3", "SELECT count(*) FROM sold") == "3"
        addresses = {served_by(orders, "orders_ro") for _ in range(8)}
        assert addresses <= {orders.hosts.address("pg2"), orders.hosts.address("pg3")}
    finally:
        orders.sql("pg1", "DROP TABLE ballast")


def test_roles_are_read_from_the_hosts_after_a_promotion_by_hand(serving: Fleet) -> None:
    """pg2 was promoted and pg1 stopped: no data are touched, nothing is cloned, and what was found is reported."""
    serving.member("pg3")
    serving.hosts.ssh("pg1", "systemctl stop postgresql@17-main")
    programs, data = "/usr/lib/postgresql/17/bin", "/var/lib/postgresql/17/main"
    serving.hosts.ssh("pg2", f"runuser -u postgres -- {programs}/pg_ctl promote -D {data}")
    serving.sql("pg2", "INSERT INTO sold VALUES ('sofa')")
    before = serving.identity("pg2")
    old_primary = serving.hosts.ssh("pg1", f"{programs}/pg_controldata {data}")

    run = serving.setup()
    assert "primary pg2" in run.text
    assert "pg1 leave_alone holds data of this cluster and is stopped" in run.text
    assert serving.identity("pg2") == before
    assert serving.hosts.ssh("pg1", f"{programs}/pg_controldata {data}") == old_primary
    assert "down" in serving.hosts.ssh("pg1", "pg_lsclusters --no-header")
    assert serving.sql("pg2", "SELECT pg_is_in_recovery()") == "f"
    assert served_by(serving, "orders") == serving.hosts.address("pg2")

    again = serving.setup()
    assert set(again.changed.values()) == {0}
    assert serving.identity("pg2") == before
