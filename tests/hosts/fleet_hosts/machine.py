# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The machine underneath: its packages, its apt mirror, and the mount namespace in which hosts live.

Everything of ours lies in two directories: STORE (images and the hosts' disks; survives a reboot) and RUNTIME (what is
gone after a reboot). The mount namespace is pinned in RUNTIME and used for every call, for two reasons: the hosts'
mounts never show on the machine, and on a machine with cgroup v1 it is where /sys/fs/cgroup can be cgroup v2, which
systemd in the hosts needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
from pathlib import Path

from fleet_hosts.catalogue import HostsError
from fleet_hosts.shell import run, say

STORE = Path("/var/lib/dbops-fleet-hosts")
RUNTIME = Path("/run/dbops-fleet-hosts")
PIN_DIRECTORY = RUNTIME / "namespace"
PIN = PIN_DIRECTORY / "mnt"
BOOT_ID = RUNTIME / "boot_id"
INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
# systemd and its services need a dozen in each host: Debian's 128 do for eight hosts, and the next fails to boot.
INOTIFY_INSTANCES_NEEDED = 1024
IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
FORWARDING_WAS_OFF = RUNTIME / "forwarding_was_off"

# A command that must be there, and the package that brings it.
_NEEDED = {
    "/usr/bin/podman": "podman",
    "/usr/bin/crun": "crun",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/bin/mmdebstrap": "mmdebstrap",
    "/usr/sbin/nft": "nftables",
    "/usr/sbin/mkfs.ext4": "e2fsprogs",
    "/usr/bin/ssh-keygen": "openssh-client",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
# `ip` moved from /sbin to /bin over the releases; look it up by name.
_NEEDED_BY_NAME = {"ip": "iproute2", "unshare": "util-linux", "mount": "mount"}

_CLONE_NEWNS = 0x00020000


def install_packages() -> None:
    """Install what is missing on the machine from its own apt sources."""
    missing = [package for path, package in _NEEDED.items() if not Path(path).exists()]
    missing += [package for name, package in _NEEDED_BY_NAME.items() if shutil.which(name) is None]
    if not missing:
        return
    say(f"installing on this machine: {' '.join(missing)}")
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=600"]
    run([*apt, "update"])
    run([*apt, "install", "-y", "--no-install-recommends", *missing])


def enter_namespace() -> None:
    """Move this process into the pinned mount namespace, making it if it is not there.

    Call it under the machine's lock and before any thread is started.
    """
    current_boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    if BOOT_ID.exists() and BOOT_ID.read_text() != current_boot:
        # /run is no tmpfs everywhere: what lies here describes containers and mounts that the reboot ended.
        shutil.rmtree(RUNTIME)
    RUNTIME.mkdir(mode=0o700, parents=True, exist_ok=True)
    BOOT_ID.write_text(current_boot)
    if not is_mounted(PIN):
        _kill_strays()
        _pin_new_namespace()
    _join(PIN)
    _furnish()


def leave_nothing() -> None:
    """Remove what no set needs any more, when no set is left; STORE goes with the last image. Call it from outside."""
    _kill_strays()
    run(["umount", str(PIN)], check=False)
    run(["umount", str(PIN_DIRECTORY)], check=False)
    if FORWARDING_WAS_OFF.exists():
        IP_FORWARD.write_text("0")
    shutil.rmtree(RUNTIME, ignore_errors=True)
    for hierarchy in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        podmans = Path(hierarchy, "libpod_parent")
        for group in (*sorted(podmans.glob("**/"), reverse=True), podmans):
            with contextlib.suppress(OSError):  # not there, or in use by other containers of the machine
                group.rmdir()
    if not (STORE / "images").exists():
        shutil.rmtree(STORE)


def switch_forwarding_on() -> None:
    """Let the machine route for its hosts; leave_nothing puts it back as it was."""
    if IP_FORWARD.read_text().strip() == "0":
        FORWARDING_WAS_OFF.touch()
        IP_FORWARD.write_text("1")


def allow_many_hosts() -> None:
    """Raise the kernel's limit of inotify instances until the machine's next boot."""
    if int(INOTIFY_INSTANCES.read_text()) < INOTIFY_INSTANCES_NEEDED:
        with contextlib.suppress(OSError):
            INOTIFY_INSTANCES.write_text(str(INOTIFY_INSTANCES_NEEDED))


def is_mounted(path: Path, fstype: str | None = None) -> bool:
    """Whether something (of this type) is mounted on top at path, in this process's namespace."""
    on_top = None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _source, target, kind, *_rest = line.split(" ")
        if target == str(path):
            on_top = kind
    return on_top is not None and (fstype is None or on_top == fstype)


def _pin_new_namespace() -> None:
    # The pin is a bind mount and may only lie on a mount whose propagation is private: a small tmpfs of its own.
    if not is_mounted(PIN_DIRECTORY):
        PIN_DIRECTORY.mkdir(exist_ok=True)
        run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "fleet-hosts", str(PIN_DIRECTORY)])
    run(["mount", "--make-private", str(PIN_DIRECTORY)])
    PIN.touch()
    run(["unshare", f"--mount={PIN}", "--propagation", "private", "true"])
    # Records of containers that lived in a namespace that is gone.
    shutil.rmtree(RUNTIME / "podman", ignore_errors=True)


def _join(pin: Path) -> None:
    # os.setns exists only since Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(pin, os.O_RDONLY)
    if libc.setns(descriptor, _CLONE_NEWNS) != 0:
        raise HostsError(f"cannot enter the mount namespace {pin}: {os.strerror(ctypes.get_errno())}. Are you root?")
    os.close(descriptor)


def _furnish() -> None:
    """Inside the namespace: cgroup v2, and a /run/netns of our own. Idempotent: a killed run may have stopped here."""
    cgroup = Path("/sys/fs/cgroup")
    if not is_mounted(cgroup, "cgroup2"):
        if is_mounted(cgroup):
            run(["umount", "--recursive", str(cgroup)])
        run(["mount", "-t", "cgroup2", "cgroup2", str(cgroup)])
    netns = Path("/run/netns")
    netns.mkdir(exist_ok=True)
    if not is_mounted(netns):
        run(["mount", "-t", "tmpfs", "-o", "mode=755", "fleet-hosts-netns", str(netns)])


def _kill_strays() -> None:
    """Kill hosts whose namespace is gone: they can be neither entered nor stopped by Podman any more."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if not arguments[0].endswith(b"conmon") or not any(bytes(RUNTIME) in argument for argument in arguments):
                continue
            children = (process / "task" / process.name / "children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        say(f"killing a host left over from a lost mount namespace (conmon {process.name})")
        for pid in (*children, process.name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
