# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts and the faults that can befall them, on real ones."""

from __future__ import annotations

import subprocess
import time

import pytest
from hosts.fixtures import Hosts

pytestmark = pytest.mark.fleet


@pytest.fixture
def three(own_hosts: Hosts) -> Hosts:
    own_hosts.up("pg1", "pg2", "old1")
    return own_hosts


def _reaches(hosts: Hosts, name: str, peer: str) -> bool:
    try:
        hosts.ssh(name, f"ping -q -c1 -W1 {peer}", timeout=10)
    except subprocess.CalledProcessError:
        return False
    return True


def _count_of(hosts: Hosts, name: str) -> int:
    """How far a counter that writes to /root/count has come."""
    return int(hosts.ssh(name, "wc -l < /root/count"))


@pytest.mark.parametrize("name", ["pg1", "old1"])
def test_a_host_is_like_one_from_a_provider(three: Hosts, name: str) -> None:
    assert three.ssh(name, "systemctl is-system-running --wait", user="fleet").strip() == "running"
    assert three.ssh(name, "sudo -n id -u", user="fleet").strip() == "0"
    assert three.ssh(name, "hostname; getent hosts pool2").split() == [name, three.address("pool2"), "pool2"]
    assert int(three.ssh(name, "df --output=size -BM /dev/shm | tail -1").strip().rstrip("M")) == 1024
    three.ssh(name, "apt-get -q update && apt-get install -y -q --no-install-recommends jq && jq --version")


def test_a_baked_host_has_packages_but_no_instance_and_no_pooler_running(three: Hosts) -> None:
    assert three.ssh("pg1", "pg_lsclusters --no-header") == ""
    assert three.ssh("pg1", "systemctl is-active pgbouncer || true").strip() == "inactive"


def test_a_power_loss_keeps_the_disk_but_not_what_was_never_synced(three: Hosts) -> None:
    three.ssh("pg1", "echo kept > /root/synced; sync; echo lost > /root/unsynced")
    boot = three.ssh("pg1", "cat /proc/sys/kernel/random/boot_id")
    with three.power_loss("pg1"):
        assert three.tool("power-state", "pg1") == "off\n"
        assert not three.answers("pg1")
        assert _reaches(three, "pg2", "old1")
    assert three.tool("power-state", "pg1") == "on\n"
    assert three.ssh("pg1", "cat /root/synced; ls /root") == "kept\nsynced\n"
    assert three.ssh("pg1", "cat /proc/sys/kernel/random/boot_id") != boot


def test_peers_hear_nothing_of_a_host_that_loses_power(three: Hosts) -> None:
    """No FIN, no RST: a connection to it just goes quiet."""
    three.ssh("pg1", "systemd-run --unit=listener python3 -m http.server 8000")
    client = (
        "import socket,time\n"
        "for attempt in range(50):\n"
        "    try: c = socket.create_connection(('pg1', 8000)); break\n"
        "    except OSError: time.sleep(0.1)\n"
        "print('connected', flush=True); c.settimeout(4)\n"
        "try: print('heard', c.recv(1))\n"
        "except TimeoutError: print('silence')\n"
    )
    three.ssh("pg2", f'cat > /root/client.py <<"E"\n{client}E\n')
    three.ssh("pg2", "systemd-run --unit=client -p StandardOutput=file:/root/heard python3 /root/client.py")
    three.ssh("pg2", "until grep -q connected /root/heard; do sleep 0.05; done")
    with three.power_loss("pg1"):
        heard = three.ssh("pg2", "until [ $(wc -l < /root/heard) = 2 ]; do sleep 0.1; done; cat /root/heard")
    assert heard == "connected\nsilence\n"


def test_a_frozen_host_stands_still_and_goes_on(three: Hosts) -> None:
    three.ssh("pg1", "systemd-run --unit=counter sh -c 'while sleep 0.05; do echo >> /root/count; done'")
    three.ssh("pg1", "until [ -s /root/count ]; do sleep 0.05; done")
    with three.frozen("pg1"):
        assert three.tool("power-state", "pg1") == "on\n"
        assert not three.answers("pg1")
    before = _count_of(three, "pg1")
    assert three.answers("pg1")
    deadline = time.monotonic() + 10
    while _count_of(three, "pg1") == before:
        assert time.monotonic() < deadline
    three.ssh("pg1", "systemctl stop counter; rm /root/count")


def test_a_cut_from_one_peer_leaves_the_others(three: Hosts) -> None:
    with three.cut("pg1", peers=["pg2"]):
        assert not _reaches(three, "pg1", "pg2")
        assert not _reaches(three, "pg2", "pg1")
        assert _reaches(three, "pg1", "old1")
        assert "pg1" in three.tool("status")
    assert _reaches(three, "pg1", "pg2")


def test_a_cut_from_the_controller_leaves_the_peers(three: Hosts) -> None:
    with three.cut("pg1", peers=["controller"]):
        assert not three.answers("pg1")
        assert _reaches(three, "pg2", "pg1")
    assert three.answers("pg1")


def test_a_host_cut_from_all_is_alone_even_after_a_power_loss(three: Hosts) -> None:
    with three.cut("pg1", peers=["all"]):
        with three.power_loss("pg1"):
            pass
        assert not three.answers("pg1")
        assert not _reaches(three, "pg2", "pg1")
    assert three.answers("pg1")


def test_a_cut_drops_and_does_not_reject(three: Hosts) -> None:
    with three.cut("pg1", peers=["pg2"]):
        verdict = three.ssh("pg2", "timeout 2 bash -c '</dev/tcp/pg1/22'; echo $?")
    assert verdict.strip() == "124"


def test_a_full_disk_is_full_for_that_host_only(three: Hosts) -> None:
    with three.full_disk("pg1", "/var/lib/postgresql", leave_mb=5):
        with pytest.raises(subprocess.CalledProcessError, match="status 1"):
            three.ssh("pg1", "head -c 20M /dev/zero > /var/lib/postgresql/too-much")
        three.ssh("pg2", "head -c 20M /dev/zero > /root/fits; rm /root/fits")
    three.ssh("pg1", "head -c 20M /dev/zero > /root/fits; rm /root/fits /var/lib/postgresql/too-much")


def test_filling_a_file_system_in_memory_is_refused(three: Hosts) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        three.tool("fill-disk", "pg1", "/dev/shm", "--leave-mb", "5")
    assert "not on the host's disk" in refused.value.stderr


def test_up_takes_every_fault_away(three: Hosts) -> None:
    three.tool("cut", "pg1", "--from", "all")
    three.tool("freeze", "pg1")
    three.tool("fill-disk", "pg2", "/", "--leave-mb", "1")
    three.tool("power-off", "old1")
    three.up("pg1", "pg2", "old1")
    for name in ("pg1", "pg2", "old1"):
        three.ssh(name, "head -c 20M /dev/zero > /root/fits; rm /root/fits")


def test_a_frozen_host_can_lose_power(three: Hosts) -> None:
    three.tool("freeze", "pg1")
    with three.power_loss("pg1"):
        assert three.tool("power-state", "pg1") == "off\n"
    assert three.answers("pg1")


def test_a_host_that_shuts_itself_down_is_off(three: Hosts) -> None:
    three.ssh("pg1", "systemctl poweroff --no-block")
    deadline = time.monotonic() + 30
    while three.tool("power-state", "pg1") != "off\n":
        assert time.monotonic() < deadline
    three.power_on("pg1")
    assert three.answers("pg1")


def test_reset_gives_a_fresh_host_with_the_same_name_and_keys(three: Hosts) -> None:
    three.ssh("pg1", "touch /root/old; sync")
    three.reset("pg1", bare=True)
    assert three.ssh("pg1", "ls /root; command -v psql || echo bare") == "bare\n"
    three.reset("pg1")
    assert three.ssh("pg1", "command -v psql") == "/usr/bin/psql\n"


def test_asking_for_a_bare_host_where_a_baked_one_stands_is_refused(three: Hosts) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        three.up("pg2", bare=True)
    assert "reset --bare pg2" in refused.value.stderr
