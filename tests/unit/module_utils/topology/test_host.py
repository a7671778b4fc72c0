# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's files say, and whose data are in an instance's place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.postgres.control import ControlData
from ansible_collections.dbops.fleet.plugins.module_utils.topology import host_facts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.instance_facts import (
    Found,
    Owner,
    classify,
    reload_pending,
)

CONTROL = ControlData.parse((Path(__file__).parents[2] / "fixtures" / "pg_controldata" / "15.txt").read_text())
OWNER = Owner("orders", CONTROL.system_identifier)
OURS = Found("/data", True, False, False, True, data_version="15", control=CONTROL, owner=OWNER)
CRASHED = replace(CONTROL, state="in production")
MARKER = {"phase": "copying", "directory": "/data.dbops-clone", "system_identifier": CONTROL.system_identifier}


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (Found("/data", False, True, False, False), "absent"),
        (Found("/data", True, True, False, False), "empty"),
        (OURS, "stopped"),
        (replace(OURS, control=CRASHED), "crashed"),
        (replace(OURS, control=None, control_error="it is torn"), "crashed"),
        (replace(OURS, running=True, member_state="running"), "running"),
        (replace(OURS, running=True, member_state="unreachable"), "running"),
        (replace(OURS, running=True, member_state="starting"), "starting"),
        (replace(OURS, owner=Owner("orders")), "stopped"),
        (replace(OURS, owner=None), "foreign"),
        (replace(OURS, owner=None, running=True, member_state="running"), "foreign"),
        (replace(OURS, owner=Owner("orders", "1")), "foreign"),
        (replace(OURS, data_version="13"), "foreign"),
        (replace(OURS, data_version=None), "foreign"),
        (Found("/data", True, True, False, False, clone=MARKER), "interrupted_clone"),
        (Found("/data", True, True, False, False, clone={**MARKER, "phase": "finished"}), "empty"),
        (replace(OURS, configured=False, owner=None, clone={**MARKER, "phase": "finished"}), "interrupted_clone"),
        (replace(OURS, configured=False, owner=None, clone={**MARKER, "directory": "/data"}), "interrupted_clone"),
        (
            replace(OURS, configured=False, owner=None, clone={**MARKER, "system_identifier": "1"}),
            "foreign",
        ),
        (replace(OURS, clone=MARKER), "stopped"),
    ],
)
def test_state_of_an_instance(found: Found, state: str) -> None:
    assert classify(found, 15)[0] == state
    if state in ("foreign", "crashed", "interrupted_clone"):
        assert classify(found, 15)[1]


def test_a_file_counts_as_unread_when_it_changed_after_the_configuration_was_loaded() -> None:
    changed = {"/later": 1000.5, "/earlier": 900.0, "/never since the boot": 1.0}
    assert reload_pending(1000.0, changed) == ("/later",)
    assert reload_pending(1000.5 + 1, changed) == ()
    assert reload_pending(1000.0, {}) == ()


def test_a_file_that_changed_within_the_clock_tick_of_the_reload_counts_as_unread() -> None:
    # Written right after the reload, it bears the time of the kernel's last tick, which was right before it.
    assert reload_pending(1000.0, {"/file": 999.995}) == ("/file",)
    assert reload_pending(1000.0, {"/file": 999.985}) == ()


def test_memory_is_the_host_s_or_the_control_group_s_limit() -> None:
    meminfo = "MemTotal:        8141312 kB\nMemFree: 1 kB\n"
    assert host_facts.memory_mb(meminfo) == 7950
    assert host_facts.memory_mb(meminfo, ["max\n"]) == 7950
    assert host_facts.memory_mb(meminfo, [str(512 << 20)]) == 512
    with pytest.raises(ValueError, match="MemTotal"):
        host_facts.memory_mb("")


def test_packages_count_only_when_installed() -> None:
    status = (
        "Package: libpq5\nStatus: install ok installed\nVersion: 15.18-0+deb12u1\nDescription: x\n y\n\n"
        "Package: pgbouncer\nStatus: deinstall ok config-files\nVersion: 1.18.0-1\n\n"
        "Package: pgbouncer-doc\nStatus: install ok installed\nVersion: 9\n\n"
        "Package: acl\nStatus: hold ok installed\nVersion: 2.3.1-3\n"
    )
    assert host_facts.installed_packages(status, ["libpq5", "pgbouncer", "acl", "nope"]) == {
        "libpq5": "15.18-0+deb12u1",
        "acl": "2.3.1-3",
    }
    assert host_facts.installed_packages("", ["acl"]) == {}


def test_release_is_read() -> None:
    text = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n'
    assert host_facts.os_release(text) == {
        "distribution": "Debian",
        "distribution_version": "13",
        "distribution_major_version": "13",
        "codename": "trixie",
    }
    assert host_facts.os_release("")["distribution"] == "Unknown"


def test_own_addresses_are_read_without_loopback() -> None:
    trie = (
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.11\n"
        "        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n"
        "Local:\n     |-- 10.0.0.11\n        /32 host LOCAL\n"
    )
    assert host_facts.ipv4_addresses(trie) == ["10.0.0.11"]
    inet6 = (
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "fd000000000000000000000000000002 02 40 00 80     eth0\n"
        "fe800000000000000000000000000001 02 40 20 80     eth0\n"
    )
    assert host_facts.ipv6_addresses(inet6) == ["fd00::2"]
