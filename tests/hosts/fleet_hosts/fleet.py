# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A set of hosts as a whole: registered on the machine, brought up, destroyed, listed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet_hosts import images, network
from fleet_hosts.catalogue import Addresses, Catalogue, HostsError, HostSpec, Image, load_catalogue
from fleet_hosts.host import Host
from fleet_hosts.images import ensure_images, image_directory, remove_tree
from fleet_hosts.keys import Keys
from fleet_hosts.machine import STORE
from fleet_hosts.shell import locked, say

SETS = STORE / "sets"
_CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Fleet:
    """One set (FLEET_HOSTS_SET) seen from one checkout (FLEET_HOSTS_STATE)."""

    name: str
    number: int
    keys: Keys
    catalogue: Catalogue

    @property
    def addresses(self) -> Addresses:
        return Addresses(self.number)

    @property
    def directory(self) -> Path:
        return SETS / self.name

    @property
    def lock(self) -> Path:
        """Held while hosts of the set are made, powered on or off. Outside of `directory`, which `down` removes."""
        return STORE / f"set-{self.name}.lock"

    def host(self, name: str) -> Host:
        (spec,) = self.catalogue.select([name])
        return self._host(spec)

    def hosts(self) -> list[Host]:
        """Every host of the catalogue that has something on the machine, whole or half-made."""
        return [
            self._host(spec)
            for spec in self.catalogue.hosts.values()
            if (self.directory / "hosts" / spec.name).exists()
        ]

    def _host(self, spec: HostSpec) -> Host:
        return Host(spec, self.name, self.addresses, self.catalogue, self.directory / "hosts" / spec.name)

    def up(self, names: Iterable[str], *, bare: bool = False, anew: bool = False) -> None:
        """Have hosts up, answering and free of injected faults; `anew` with fresh disks, `bare` without packages."""
        wanted = [self._host(spec) for spec in self.catalogue.select(names)]
        to_create = {
            host.name: self.catalogue.image(host.spec.debian, "bare" if bare else host.spec.kind)
            for host in wanted
            if anew or not host.exists() or not host.accepts(self.keys)
        }
        for host in wanted:
            if bare and host.name not in to_create and "-bare-" not in host.image().name:
                raise HostsError(
                    f"{host.name} exists and is not bare. Make it anew: fleet-hosts reset --bare {host.name}"
                )
        ensure_images(set(to_create.values()))
        with locked(self.lock):
            network.ensure_network(self.addresses)
            _for_each(wanted, lambda host: self._have_up(host, to_create.get(host.name)))
        _for_each(wanted, Host.wait_until_ready)
        _for_each([host for host in wanted if host.name in to_create], Host.wait_until_booted)
        say(f"up: {' '.join(f'{host.name}={host.address}' for host in wanted)}")

    def _have_up(self, host: Host, image: Image | None) -> None:
        if image is not None:
            say(f"{host.name}: creating ({image.suite} {image.kind})")
            host.create(image_directory(image), self.keys)
        state = host.state()
        if state == "off":
            say(f"{host.name}: power on")
            host.power_on()
        elif state == "frozen":
            host.thaw()
        network.heal(self.addresses, host.spec)
        host.free_disk()

    def power_on(self, host: Host) -> None:
        with locked(self.lock):
            network.ensure_network(self.addresses)
            host.power_on()
        host.wait_until_ready()

    def destroy(self) -> None:
        """Destroy every host, the network and the registration of this set. Idempotent."""
        with locked(self.lock):
            for host in self.hosts():
                say(f"{host.name}: destroying")
                host.destroy()
            network.remove_network(self.addresses)
            remove_tree(self.directory)


def open_fleet(name: str, state: Path, *, register: bool) -> Fleet | None:
    """The set of this name; None when it is not registered and shall not be. Call it under the machine's lock.

    Raises HostsError when the set belongs to another checkout that still exists: its hosts accept that one's key only.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,19}", name):
        raise HostsError(f"FLEET_HOSTS_SET={name!r}: use up to 20 lower-case letters, digits and dashes")
    record = _read_record(name)
    if register:
        if record is not None and record["state"] != str(state) and Path(record["state"]).exists():
            raise HostsError(
                f"the test hosts of set {name!r} belong to another checkout (keys in {record['state']}). Destroy them "
                f"(FLEET_HOSTS_SET={name} fleet-hosts down) or use a set of your own (FLEET_HOSTS_SET=another-name)"
            )
        record = {"number": record["number"] if record else _free_number(name), "state": str(state)}
        _write_record(name, record)
    if record is None:
        return None
    return Fleet(name, record["number"], Keys(state, name), load_catalogue())


def registered_sets() -> list[str]:
    return sorted(path.parent.name for path in SETS.glob("*/set.json"))


def clean_up(*, with_images: bool) -> None:
    """After a `down`: images that nobody needs and, with the last set, all that is left on the machine but images."""
    catalogue = load_catalogue()
    if with_images and not registered_sets():
        images.remove_all()
    else:
        in_use = {Path(json.loads(path.read_text())["image"]) for path in SETS.glob("*/hosts/*/host.json")}
        images.remove_unused(catalogue, in_use)
        if with_images:
            say(f"images kept: the sets {', '.join(registered_sets())} stand on them")


def default_state() -> Path:
    """Where keys of this checkout lie: FLEET_HOSTS_STATE, or .cache/hosts in the checkout."""
    return Path(os.environ.get("FLEET_HOSTS_STATE") or _CHECKOUT / ".cache/hosts").resolve()


def _free_number(name: str) -> int:
    """`main` is always 0, so that its addresses can stand in an inventory; others get the lowest that is free."""
    if name == "main":
        return 0
    taken = {0} | {json.loads(path.read_text())["number"] for path in SETS.glob("*/set.json")}
    return min(set(range(100)) - taken - network.numbers_in_use())


def _read_record(name: str) -> dict[str, Any] | None:
    path = SETS / name / "set.json"
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def _write_record(name: str, record: dict[str, Any]) -> None:
    path = SETS / name / "set.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(record) + "\n")
    temporary.rename(path)


def _for_each(hosts: list[Host], action: Callable[[Host], None]) -> None:
    """Act on all hosts at once; every one gets its try, then the first error is raised."""
    if not hosts:
        return
    with ThreadPoolExecutor(max_workers=min(len(hosts), 4)) as pool:
        futures = [pool.submit(action, host) for host in hosts]
    for future in futures:
        future.result()
