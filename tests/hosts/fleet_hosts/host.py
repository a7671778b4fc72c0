# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One test host: a disk, a boot, and what can befall it.

A host's disk is a sparse file with an ext4 file system of its own; its root is an overlay of the image and that disk.
So a disk can run full without filling the machine, and a power loss is a true one: what was not fsynced is gone. The
container that runs on it is made anew at every power-on; nothing of value is in Podman's records.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import resource
import socket
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from fleet_hosts import network
from fleet_hosts.catalogue import CONTROLLER, Addresses, Catalogue, HostsError, HostSpec, etc_hosts
from fleet_hosts.images import remove_tree
from fleet_hosts.keys import Keys
from fleet_hosts.machine import RUNTIME, is_mounted
from fleet_hosts.shell import run, say, wait_until

BALLAST = "/.fleet-hosts-ballast"  # what fill-disk puts on a host's disk
_EXT4_IOC_SHUTDOWN = 0x8004587D  # linux/fs/ext4/ext4.h
_GOING_NOLOGFLUSH = 2  # stop at once: neither data nor journal that is only in memory gets to the disk
_BOOT_SECONDS = 120


def podman_command(*arguments: str) -> list[str]:
    """Podman with records of its own, apart from those of the machine's other containers."""
    configuration = RUNTIME / "containers.conf"
    if not configuration.exists():
        content = '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nlock_type = "file"\n'
        content += 'runtime = "crun"\n[network]\nnetwork_backend = "netavark"\n'
        temporary = configuration.with_suffix(f".{os.getpid()}-{uuid.uuid4().hex}")
        temporary.write_text(content)
        temporary.rename(configuration)
    here = RUNTIME / "podman"
    command = ["env", f"CONTAINERS_CONF={configuration}", "podman", f"--root={here}/root", f"--runroot={here}/run"]
    return [*command, f"--tmpdir={here}/tmp", "--storage-driver=vfs", *arguments]


def podman(*arguments: str, check: bool = True) -> str:
    """Run Podman; returns stdout."""
    return run(podman_command(*arguments), check=check).stdout


@dataclass(frozen=True)
class Host:
    """A host of a set, whether it exists already or not."""

    spec: HostSpec
    set_name: str
    addresses: Addresses
    catalogue: Catalogue
    directory: Path  # everything of this host on the machine

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def container(self) -> str:
        return f"{self.set_name}-{self.name}"

    @property
    def address(self) -> str:
        return self.addresses.of(self.spec)

    @property
    def _disk_file(self) -> Path:
        return self.directory / "disk.img"

    @property
    def _disk(self) -> Path:
        return self.directory / "disk"

    @property
    def _root(self) -> Path:
        return self.directory / "root"

    @property
    def _record(self) -> Path:
        return self.directory / "host.json"

    def exists(self) -> bool:
        """Whether the host was made, to the end, and not destroyed."""
        return self._record.exists()

    def image(self) -> Path:
        """The image that the host, which must exist, stands on."""
        return Path(self._read_record()["image"])

    def accepts(self, keys: Keys) -> bool:
        """Whether the host, which must exist, was made with these keys."""
        return self._read_record()["identity"] == keys.identity(self.name)

    def _read_record(self) -> dict[str, str]:
        record: dict[str, str] = json.loads(self._record.read_text())
        return record

    def state(self) -> str:
        """absent, off, on or frozen."""
        if not self.exists():
            return "absent"
        return {"running": "on", "paused": "frozen"}.get(self._container_status(), "off")

    def create(self, image: Path, keys: Keys) -> None:
        """A fresh disk with the host's identity on it; the host is off. Anything there before is destroyed."""
        self.destroy()
        for directory in (self._disk, self._root):
            directory.mkdir(parents=True)
        with self._disk_file.open("wb") as file:
            file.truncate(self.catalogue.disk_gb << 30)
        run(
            [
                "mkfs.ext4",
                "-q",
                "-m",
                "0",
                "-i",
                "65536",
                "-J",
                "size=64",
                "-E",
                "lazy_itable_init=1,lazy_journal_init=1",
            ]
            + [str(self._disk_file)]
        )
        self._mount(image)
        self._write_identity(keys)
        self._unmount()
        # Last, so that a host whose creation was interrupted counts as absent.
        temporary = self._record.with_suffix(".new")
        temporary.write_text(json.dumps({"image": str(image), "identity": keys.identity(self.name)}) + "\n")
        temporary.rename(self._record)

    def destroy(self) -> None:
        """Remove the host with its disk. Idempotent."""
        self.power_off()
        remove_tree(self.directory)

    def power_on(self) -> None:
        """Boot; returns when the container runs, not when it answers (see wait_until_ready)."""
        if not self.exists():
            raise HostsError(f"{self.name} does not exist. Create it: fleet-hosts up {self.name}")
        if self.state() in ("on", "frozen"):
            return
        self.power_off()  # whatever a host that went down by itself, or a killed run, has left
        self._mount(self.image())
        namespace = network.plug_in(self.addresses, self.spec)
        files = _limit(resource.RLIMIT_NOFILE, 1 << 20)
        # crun is refused values near the hard limit where CAP_SYS_RESOURCE is missing.
        processes = _limit(resource.RLIMIT_NPROC, 30000)
        podman(
            "run", "--detach", "--replace", f"--name={self.container}", f"--hostname={self.name}",
            f"--network=ns:{namespace}", "--no-hosts", "--dns=none", "--privileged", "--systemd=always",
            f"--shm-size={self.catalogue.shm_mb}m", "--pids-limit=0",
            f"--ulimit=nofile={files}:{files}", f"--ulimit=nproc={processes}:{processes}",
            f"--volume={self._write_meminfo()}:/proc/meminfo:ro",
            f"--volume={self._write_boot_id()}:/proc/sys/kernel/random/boot_id:ro",
            f"--volume={self._disk}/journal:/var/log/journal",
            "--rootfs", str(self._root), "/sbin/init",
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        """Wait until users may log in and, unless the host is cut off from here, sshd answers.

        Services may still be starting: a database that recovers for an hour is no reason to wait here.
        """
        try:
            wait_until("it lets users log in", _BOOT_SECONDS, self._lets_users_in)
            if not {"all", CONTROLLER} & set(network.cuts(self.addresses, [self.spec]).get(self.name, [])):
                wait_until(f"sshd answers at {self.address}", _BOOT_SECONDS, self._ssh_answers)
        except HostsError as problem:
            raise HostsError(
                f"{self.name} is {self.state()} but not usable: {problem}. "
                f"Look inside: fleet-hosts console {self.name}; or make it anew: fleet-hosts reset {self.name}"
            ) from problem

    def wait_until_booted(self) -> None:
        """Wait until systemd has started everything; say so when a unit failed."""
        command = ["timeout", str(_BOOT_SECONDS), "systemctl", "is-system-running", "--wait"]
        verdict = podman("exec", self.container, *command, check=False).strip()
        if verdict != "running":
            failed = podman("exec", self.container, "systemctl", "--failed", "--plain", "--no-legend", check=False)
            units = ", ".join(line.split()[0] for line in failed.splitlines())
            say(f"{self.name} is up, but systemd calls it {verdict or 'not booted'}: {units}")

    def _lets_users_in(self) -> bool:
        if self.state() != "on":
            raise HostsError("it went down while booting")
        verdict = podman("exec", self.container, "systemctl", "is-active", "systemd-user-sessions.service", check=False)
        return verdict.strip() == "active"

    def power_off(self) -> None:
        """Cut the power: silence on the network, nothing more reaches the disk, then all is gone. Idempotent."""
        network.silence(self.addresses, self.spec)
        if is_mounted(self._disk):
            descriptor = os.open(self._disk, os.O_RDONLY)
            try:
                fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _GOING_NOLOGFLUSH))
            finally:
                os.close(descriptor)
        if self._container_status() == "paused":
            podman(
                "unpause", self.container, check=False
            )  # a frozen container cannot be removed; its disk is dead by now
        podman("rm", "--force", "--time=0", "--ignore", self.container)
        network.unplug(self.addresses, self.spec)
        self._unmount()

    def console_command(self) -> list[str]:
        """The command of a root shell in the host that needs no network."""
        return podman_command("exec", "--interactive", "--tty", self.container, "/bin/bash", "--login")

    def _container_status(self) -> str:
        """Podman's word for it; empty without a container."""
        return podman("container", "inspect", "--format={{.State.Status}}", self.container, check=False).strip()

    def freeze(self) -> None:
        """Stop every process where it is. The kernel still accepts packets; nothing answers them."""
        if self.state() != "frozen":
            podman("pause", self.container)

    def thaw(self) -> None:
        if self.state() == "frozen":
            podman("unpause", self.container)

    def fill_disk(self, path: str, leave_mb: int) -> None:
        """Leave `leave_mb` MiB on the file system of `path`, which must be the host's disk."""
        free = self._free_bytes(path) + self._ballast_bytes() - (leave_mb << 20)
        if free <= 0:
            raise HostsError(f"{self.name}: less than {leave_mb} MiB are free at {path} already")
        podman("exec", self.container, "rm", "-f", BALLAST)
        podman("exec", self.container, "fallocate", f"--length={free}", BALLAST)

    def free_disk(self) -> None:
        podman("exec", self.container, "rm", "-f", BALLAST)

    def _ballast_bytes(self) -> int:
        return int(podman("exec", self.container, "stat", "--format=%s", BALLAST, check=False).strip() or 0)

    def _free_bytes(self, path: str) -> int:
        root, here = (
            podman("exec", self.container, "df", "--output=avail,target", "--block-size=1", place)
            .splitlines()[1]
            .split()
            for place in ("/", path)
        )
        if here[1] != root[1]:
            raise HostsError(f"{self.name}: {path} is on {here[1]}, a file system in memory, not on the host's disk")
        return int(here[0])

    def _ssh_answers(self) -> bool:
        try:
            with socket.create_connection((self.address, 22), timeout=2) as connection:
                return connection.recv(8).startswith(b"SSH-2.0")
        except OSError:
            return False

    def _mount(self, image: Path) -> None:
        run(["mount", "-o", "loop,discard,noinit_itable", str(self._disk_file), str(self._disk)])
        for name in ("upper", "work", "journal"):
            (self._disk / name).mkdir(exist_ok=True)
        options = f"lowerdir={image},upperdir={self._disk}/upper,workdir={self._disk}/work"
        run(["mount", "-t", "overlay", "-o", options, "overlay", str(self._root)])

    def _unmount(self) -> None:
        for directory in (self._root, self._disk):
            # The kernel may need a moment to let go of a killed container's mounts.
            wait_until(f"{directory} is unmounted", 20, functools.partial(_try_unmount, directory))

    def _write_identity(self, keys: Keys) -> None:
        """Name, addresses, resolver, keys: what a provisioning system gives a new host."""
        root = self._root
        etc = root / "etc"
        _write(etc / "hostname", f"{self.name}\n")
        _write(etc / "hosts", etc_hosts(self.catalogue, self.addresses, self.name))
        _write(etc / "resolv.conf", _machine_resolver())
        _write(etc / "machine-id", f"{uuid.uuid5(uuid.NAMESPACE_DNS, self.container).hex}\n", 0o444)
        host_key = keys.host_key(self.name)
        _write(etc / "ssh/ssh_host_ed25519_key", host_key.read_text(), 0o600)
        _write(etc / "ssh/ssh_host_ed25519_key.pub", host_key.with_suffix(".pub").read_text())
        for home, owner in ((root / "root", 0), (root / "home/fleet", 1000)):
            directory = home / ".ssh"
            directory.mkdir(mode=0o700, exist_ok=True)
            _write(directory / "authorized_keys", keys.public_key(), 0o600)
            os.chown(directory, owner, owner)
            os.chown(directory / "authorized_keys", owner, owner)

    def _write_boot_id(self) -> Path:
        """A new boot ID for each boot: containers would all show the machine's, which outlives their power losses."""
        path = self.directory / "boot_id"
        path.write_text(f"{uuid.uuid4()}\n")
        return path

    def _write_meminfo(self) -> Path:
        """A /proc/meminfo with memory_mb: with the real one every host would think that it owns the machine."""
        total = self.catalogue.memory_mb << 10
        values = {
            "MemTotal": total,
            "MemFree": total * 8 // 10,
            "MemAvailable": total * 9 // 10,
            "Buffers": 0,
            "Cached": total // 10,
        }
        values |= {"SwapCached": 0, "SwapTotal": 0, "SwapFree": 0, "Shmem": 0, "SReclaimable": 0, "SUnreclaim": 0}
        lines = [f"{name + ':':<16}{value:>8} kB" for name, value in values.items()]
        lines += [
            f"{name:<16}{0:>8}"
            for name in ("HugePages_Total:", "HugePages_Free:", "HugePages_Rsvd:", "HugePages_Surp:")
        ]
        lines += [f"{'Hugepagesize:':<16}{2048:>8} kB"]
        path = self.directory / "meminfo"
        path.write_text("\n".join(lines) + "\n")
        return path


def _limit(what: int, most: int) -> int:
    """The highest limit that can be given: without CAP_SYS_RESOURCE a process cannot raise its own hard limit."""
    _soft, hard = resource.getrlimit(what)
    return most if hard == resource.RLIM_INFINITY else min(hard, most)


def _try_unmount(directory: Path) -> bool:
    """Whether it is unmounted now."""
    if is_mounted(directory):
        run(["umount", str(directory)], check=False)
    return not is_mounted(directory)


def _machine_resolver() -> str:
    """The machine's resolv.conf, or the one behind systemd-resolved: 127.0.0.53 is nobody in another host."""
    text = Path("/etc/resolv.conf").read_text()
    behind = Path("/run/systemd/resolve/resolv.conf")
    return behind.read_text() if "nameserver 127." in text and behind.exists() else text


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(mode)
