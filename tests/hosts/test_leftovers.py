# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever a killed run, a reboot or a lost namespace leaves behind, the next `up` works and `down` leaves nothing.

Each test is a script in a sandbox: namespaces (mounts, network, processes) in which fleet-hosts finds a machine without
hosts. So the namespace that all sets share can be taken away here without harm to anybody's hosts.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hosts.fixtures import Hosts

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

_STORE = Path("/var/lib/dbops-fleet-hosts")
_TOOL = Path(__file__).resolve().parent / "fleet-hosts"
# Linux 6.18 numbers namespaces per CPU, and one can be pinned only inside one with a lower number.
_ON_ONE_CPU = ["taskset", "--cpu-list", "0"]
_PRELUDE = """
set -eu
umount --recursive /run/dbops-fleet-hosts/namespace
mkdir -p {tmp}/store/images {tmp}/run /run/dbops-fleet-hosts
mount --bind {images} {tmp}/store/images
mount --rbind {tmp}/store {store}
mount --bind {tmp}/run /run/dbops-fleet-hosts
ip link set lo up
echo 0 > /proc/sys/net/ipv4/ip_forward
export FLEET_HOSTS_STATE={tmp}/keys
log_in() {{
    ssh -F none -i $FLEET_HOSTS_STATE/id_ed25519 -o UserKnownHostsFile=$FLEET_HOSTS_STATE/main/known_hosts \\
        -o BatchMode=yes root@10.87.0.11 "$@"
}}
must_fail() {{
    if "$@"; then echo "this should have failed: $*"; exit 1; fi
}}
nothing_left() {{
    test ! -e {store}/sets/main
    test -z "$(ls -A /run/dbops-fleet-hosts)"
    test -z "$(nft list ruleset)"
    must_fail ip link show fleet0
    test "$(cat /proc/sys/net/ipv4/ip_forward)" = 0
    must_fail grep -q {tmp}/store/sets /proc/self/mounts
    test -z "$(losetup --list --noheadings --output BACK-FILE | grep {tmp})"
    must_fail pgrep -x conmon
}}
tool={tool}
"""


@pytest.fixture
def sandbox(tmp_path: Path, own_hosts: Hosts):  # type: ignore[no-untyped-def]
    own_hosts.tool("build")

    def run(script: str) -> str:
        images = _STORE / "images"
        prelude = _PRELUDE.format(tmp=tmp_path, images=images, store=_STORE, tool=_TOOL)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_HOSTS_")}
        done = subprocess.run(
            [*_ON_ONE_CPU, "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"],
            input=prelude + script,
            env=environment,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def test_down_leaves_nothing_and_can_be_repeated(sandbox) -> None:  # type: ignore[no-untyped-def]
    sandbox("$tool up pg1; log_in true; $tool down; nothing_left; $tool down; nothing_left")


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2])
def test_up_works_after_an_up_that_was_killed(sandbox, seconds: float) -> None:  # type: ignore[no-untyped-def]
    sandbox(
        f"timeout --signal=KILL {seconds} $tool up pg1 || true; $tool up pg1; log_in true; $tool down; nothing_left"
    )


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3, 0.4, 0.6])
def test_up_works_after_a_down_that_was_killed(sandbox, seconds: float) -> None:  # type: ignore[no-untyped-def]
    sandbox(
        "$tool up pg1; log_in true\n"
        f"timeout --signal=KILL {seconds} $tool down || true; $tool up pg1; log_in true; $tool down; nothing_left"
    )


def test_a_lost_namespace_is_replaced_and_the_disk_kept(sandbox) -> None:  # type: ignore[no-untyped-def]
    sandbox(
        "$tool up pg1; log_in 'echo kept > /root/kept; sync'\n"
        "umount /run/dbops-fleet-hosts/namespace/mnt\n"
        "$tool up pg1; test $(log_in cat /root/kept) = kept; $tool down; nothing_left"
    )


def test_after_a_reboot_of_the_machine_hosts_come_up_with_their_disks(sandbox) -> None:  # type: ignore[no-untyped-def]
    """A reboot ends every process, mount and link; files stay, even those in /run where that is no tmpfs."""
    sandbox(
        "$tool up pg1; log_in 'echo kept > /root/kept; sync'\n"
        "kill -9 $(pgrep -x conmon)\n"
        "kill -9 $(pgrep -fx /sbin/init)\n"
        "umount /run/dbops-fleet-hosts/namespace/mnt /run/dbops-fleet-hosts/namespace\n"
        "ip link delete fleet0; nft flush ruleset\n"
        "echo another > /run/dbops-fleet-hosts/boot_id\n"
        "$tool up pg1; test $(log_in cat /root/kept) = kept; $tool down; nothing_left"
    )


def test_hosts_are_made_anew_when_the_keys_are_gone(sandbox) -> None:  # type: ignore[no-untyped-def]
    sandbox("$tool up pg1; log_in true; rm -r $FLEET_HOSTS_STATE; $tool up pg1; log_in true; $tool down")


def test_another_checkout_is_refused_while_the_owner_exists(sandbox) -> None:  # type: ignore[no-untyped-def]
    output = sandbox(
        "$tool up pg1; owner=$FLEET_HOSTS_STATE; export FLEET_HOSTS_STATE=$owner-other; must_fail $tool up pg1 2>&1\n"
        "mv $owner $owner-gone; $tool up pg1; log_in true; $tool down; nothing_left"
    )
    assert "belong to another checkout" in output


def test_two_sets_live_side_by_side(sandbox) -> None:  # type: ignore[no-untyped-def]
    sandbox(
        "$tool up pg1; FLEET_HOSTS_SET=second $tool up pg1\n"
        "FLEET_HOSTS_SET=second $tool status | grep 10.87.1.11; FLEET_HOSTS_SET=second $tool power-off pg1\n"
        "test $($tool power-state pg1) = on; log_in '! ping -c1 -W1 10.87.1.11'\n"
        "FLEET_HOSTS_SET=second $tool down; log_in true; $tool down; nothing_left"
    )
