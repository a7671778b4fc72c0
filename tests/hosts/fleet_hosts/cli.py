# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of fleet-hosts."""

from __future__ import annotations

import argparse
import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fleet_hosts import machine, network
from fleet_hosts.catalogue import CONTROLLER, HostsError, HostSpec
from fleet_hosts.fleet import Fleet, clean_up, default_state, open_fleet, registered_sets
from fleet_hosts.host import Host
from fleet_hosts.images import ensure_images
from fleet_hosts.inventory import inventory_yaml
from fleet_hosts.shell import locked, say

_MACHINE_LOCK = machine.STORE / "machine.lock"
# Variables that this tool reads, and sudo would drop.
_KEPT_BY_SUDO = "FLEET_HOSTS_SET,FLEET_HOSTS_STATE,http_proxy,https_proxy"
_DESCRIPTION = """Test hosts: real Debian hosts with systemd and sshd on a private network of this machine. It needs
root and calls sudo by itself. FLEET_HOSTS_SET names the set (default: main), FLEET_HOSTS_STATE where its keys lie
(default: .cache/hosts)."""


def main() -> int:
    """Parse, do, and say what went wrong in one line. Exit codes: 0 done, 1 failed, 2 wrong usage."""
    arguments = _parser().parse_args()
    return _guarded(lambda: _as_root(arguments))


def _as_root(arguments: argparse.Namespace) -> None:
    """Do what was asked; for another user than root, by starting over with sudo.

    Raises HostsError when sudo wants a password: tests and playbooks call this tool where nobody can be asked for one.
    """
    if os.geteuid() == 0:
        arguments.action(arguments)
        return
    sudo = shutil.which("sudo")
    if sudo is None or subprocess.run([sudo, "-n", "-k", "true"], capture_output=True, check=False).returncode != 0:
        raise HostsError(
            "containers, mounts and bridges need root. Be root, put sudo before the whole (sudo make demo), or let "
            f"this user sudo without a password ({getpass.getuser()} ALL=(ALL) NOPASSWD: ALL in /etc/sudoers.d)"
        )
    os.execv(sudo, [sudo, "-n", f"--preserve-env={_KEPT_BY_SUDO}", str(Path(sys.argv[0]).resolve()), *sys.argv[1:]])


def _guarded(action: Callable[[], None]) -> int:
    """Do it; an error that the caller can put right becomes one line and exit code 1."""
    try:
        action()
    except HostsError as problem:
        print(f"fleet-hosts: {problem}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleet-hosts", description=_DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, action: Callable[[argparse.Namespace], None], summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary)
        added.set_defaults(action=action)
        return added

    up = command("up", _up, "have hosts up and free of faults; creates what is missing (default: see hosts.toml)")
    up.add_argument("hosts", nargs="*", metavar="HOST")
    up.add_argument("--bare", action="store_true", help="new hosts without PostgreSQL and the like")
    reset = command("reset", _reset, "make hosts anew: fresh disk, same address and keys")
    reset.add_argument("hosts", nargs="+", metavar="HOST")
    reset.add_argument("--bare", action="store_true", help="without PostgreSQL and the like")
    down = command("down", _down, "destroy the whole set: hosts, disks, network")
    down.add_argument("--images", action="store_true", help="also the images, if no other set needs them")
    command("build", _build, "build all images, bring up nothing")
    command("status", _status, "list hosts with state, address, image and cuts")
    inventory = command(
        "inventory", _inventory, "write a YAML inventory of the set to stdout (default: hosts that exist)"
    )
    inventory.add_argument("hosts", nargs="*", metavar="HOST")
    for name, action, summary in (
        ("power-on", _power_on, "boot the host and wait until it answers"),
        ("power-off", _power_off, "cut the power: unsynced data is lost, peers hear nothing"),
        ("power-state", _power_state, "print on or off (a frozen host is on)"),
        ("freeze", _freeze, "stop all processes of the host where they are"),
        ("thaw", _thaw, "let a frozen host go on"),
        ("free-disk", _free_disk, "undo fill-disk"),
        ("address", _address, "print the IPv4 address of the host, whether it exists or not"),
        ("console", _console, "a root shell in the host that needs no network"),
    ):
        command(name, action, summary).add_argument("host", metavar="HOST")
    cut = command("cut", _cut, "drop all packets between the host and others, both ways")
    cut.add_argument("host", metavar="HOST")
    cut.add_argument(
        "--from", dest="peers", nargs="+", required=True, metavar="PEER", help=f"hosts, {CONTROLLER}, or all"
    )
    heal = command("heal", _heal, "undo the cuts of one host or of all")
    heal.add_argument("host", metavar="HOST|all")
    fill = command("fill-disk", _fill_disk, "leave only so much room on the host's disk")
    fill.add_argument("host", metavar="HOST")
    fill.add_argument("path", metavar="PATH", help="any path on the disk that shall be full")
    fill.add_argument("--leave-mb", type=int, required=True, metavar="N")
    return parser


def _fleet(*, register: bool = False) -> Fleet:
    """The set of the environment, with this process in the hosts' mount namespace.

    Without `register`, raises HostsError when the set does not exist.
    """
    name, state = _set_name(), default_state()
    with locked(_MACHINE_LOCK):
        machine.install_packages()
        fleet = open_fleet(name, state, register=register)
        if fleet is None:
            raise HostsError(f"there is no set of test hosts {name!r} on this machine. Make it: fleet-hosts up")
        if register:
            # Before entering the namespace, where a file system that was mounted later is not to be seen.
            fleet.keys.ensure(fleet.catalogue, fleet.addresses)
        machine.enter_namespace()
    return fleet


def _set_name() -> str:
    return os.environ.get("FLEET_HOSTS_SET") or "main"


def _existing(arguments: argparse.Namespace, *states: str) -> tuple[Fleet, Host]:
    """The set and the named host, which must be in one of these states."""
    fleet = _fleet()
    host = fleet.host(arguments.host)
    state = host.state()
    if state not in states:
        raise HostsError(f"{host.name} is {state}, and this needs it {' or '.join(states)}")
    return fleet, host


def _up(arguments: argparse.Namespace) -> None:
    fleet = _fleet(register=True)
    fleet.up(arguments.hosts or fleet.catalogue.default, bare=arguments.bare)


def _reset(arguments: argparse.Namespace) -> None:
    _fleet(register=True).up(arguments.hosts, bare=arguments.bare, anew=True)


def _build(arguments: argparse.Namespace) -> None:
    catalogue = _fleet(register=True).catalogue
    ensure_images({catalogue.image(number, kind) for number in catalogue.suites for kind in catalogue.packages})


def _down(arguments: argparse.Namespace) -> None:
    # The namespace can only be removed from outside of it, so the work inside is done by a child.
    child = os.fork()
    if child == 0:
        os._exit(_guarded(lambda: _destroy(with_images=arguments.images)))
    _pid, status = os.waitpid(child, 0)
    if status != 0:
        raise HostsError("not everything could be destroyed; run it again")
    with locked(_MACHINE_LOCK):
        if not registered_sets():
            machine.leave_nothing()
    say(f"down: nothing is left of the set {_set_name()!r}")


def _destroy(*, with_images: bool) -> None:
    with locked(_MACHINE_LOCK):
        fleet = open_fleet(_set_name(), default_state(), register=False)
        machine.enter_namespace()
    if fleet is not None:
        fleet.destroy()
    clean_up(with_images=with_images)


def _status(arguments: argparse.Namespace) -> None:
    fleet = _fleet()
    cuts = network.cuts(fleet.addresses, fleet.catalogue.hosts.values())
    print(f"{'HOST':<10} {'STATE':<7} {'ADDRESS':<13} {'IMAGE':<16} CUT FROM")
    for host in fleet.hosts():
        kind = " ".join(host.image().name.split("-")[:2]) if host.exists() else "-"
        cut_from = " ".join(cuts.get(host.name, []))
        print(f"{host.name:<10} {host.state():<7} {host.address:<13} {kind:<16} {cut_from}".rstrip())


def _inventory(arguments: argparse.Namespace) -> None:
    fleet = _fleet(register=True)
    names = arguments.hosts or [host.name for host in fleet.hosts() if host.exists()]
    specs = fleet.catalogue.select(names)
    print(inventory_yaml(specs, fleet.addresses, fleet.keys.private_key_file, fleet.keys.known_hosts_file), end="")


def _power_on(arguments: argparse.Namespace) -> None:
    fleet, host = _existing(arguments, "off", "on")
    fleet.power_on(host)


def _power_off(arguments: argparse.Namespace) -> None:
    fleet, host = _existing(arguments, "on", "frozen", "off")
    with locked(fleet.lock):
        host.power_off()


def _power_state(arguments: argparse.Namespace) -> None:
    host = _existing(arguments, "on", "frozen", "off")[1]
    print("off" if host.state() == "off" else "on")


def _freeze(arguments: argparse.Namespace) -> None:
    _existing(arguments, "on", "frozen")[1].freeze()


def _thaw(arguments: argparse.Namespace) -> None:
    _existing(arguments, "on", "frozen")[1].thaw()


def _cut(arguments: argparse.Namespace) -> None:
    fleet = _fleet()
    (spec,) = fleet.catalogue.select([arguments.host])
    peers: list[HostSpec | str] = [
        peer if peer in ("all", CONTROLLER) else fleet.catalogue.select([peer])[0] for peer in arguments.peers
    ]
    network.ensure_network(fleet.addresses)
    network.cut(fleet.addresses, spec, peers)


def _heal(arguments: argparse.Namespace) -> None:
    fleet = _fleet()
    network.heal(fleet.addresses, None if arguments.host == "all" else fleet.catalogue.select([arguments.host])[0])


def _fill_disk(arguments: argparse.Namespace) -> None:
    _existing(arguments, "on")[1].fill_disk(arguments.path, arguments.leave_mb)


def _free_disk(arguments: argparse.Namespace) -> None:
    _existing(arguments, "on")[1].free_disk()


def _address(arguments: argparse.Namespace) -> None:
    print(_fleet(register=True).host(arguments.host).address)


def _console(arguments: argparse.Namespace) -> None:
    command = _existing(arguments, "on")[1].console_command()
    os.execvp(command[0], command)
