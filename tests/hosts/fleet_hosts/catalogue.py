# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The catalogue of test hosts and what follows from it: addresses, names, images. Pure, no side effects."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CATALOGUE_FILE = Path(__file__).parent.parent / "hosts.toml"
CONTROLLER = "controller"  # the machine itself, as a peer in cuts and in the hosts' /etc/hosts


class HostsError(Exception):
    """Something the caller can put right; the message says how."""


@dataclass(frozen=True)
class Image:
    """A directory tree that hosts of one Debian release start from."""

    suite: str
    kind: str  # "bare" or "baked"
    packages: tuple[str, ...]

    def directory_name(self, recipe: str) -> str:
        """A name that changes with the packages and the recipe (the build script's text): no stale image is used."""
        content = "\n".join((recipe, self.suite, *self.packages))
        return f"{self.suite}-{self.kind}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class HostSpec:
    """One line of [hosts]."""

    name: str
    debian: int
    octet: int
    kind: str


@dataclass(frozen=True)
class Catalogue:
    """hosts.toml, checked."""

    default: tuple[str, ...]
    disk_gb: int
    memory_mb: int
    shm_mb: int
    suites: dict[int, str]
    packages: dict[str, tuple[str, ...]]
    hosts: dict[str, HostSpec]

    def image(self, debian: int, kind: str) -> Image:
        """The image of a Debian release; "baked" contains "bare"."""
        packages = self.packages["bare"] + (self.packages["baked"] if kind == "baked" else ())
        return Image(self.suites[debian], kind, tuple(sorted(packages)))

    def select(self, names: Iterable[str]) -> list[HostSpec]:
        """The hosts of these names, in the order given and once each; raises HostsError for an unknown one."""
        selected = dict.fromkeys(names)
        unknown = [name for name in selected if name not in self.hosts]
        if unknown:
            raise HostsError(f"unknown host {', '.join(unknown)}. hosts.toml has: {' '.join(self.hosts)}")
        return [self.hosts[name] for name in selected]


def load_catalogue(text: str | None = None) -> Catalogue:
    """Parse hosts.toml (or the text given); raises HostsError for a catalogue that contradicts itself."""
    raw = tomllib.loads(CATALOGUE_FILE.read_text() if text is None else text)
    suites = {int(number): suite for number, suite in raw["debian"].items()}
    hosts: dict[str, HostSpec] = {}
    owner_of: dict[int, str] = {}
    for name, entry in raw["hosts"].items():
        spec = HostSpec(name, entry["debian"], entry["address"], entry.get("image", "baked"))
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,9}", name) or name in (CONTROLLER, "all"):
            raise HostsError(
                f"hosts.toml: {name!r} cannot be a host name: use at most 10 lower-case letters and digits"
            )
        if spec.debian not in suites:
            raise HostsError(f"hosts.toml: {name} asks for Debian {spec.debian}, which [debian] does not name")
        if not 2 <= spec.octet <= 254 or spec.octet in owner_of:
            raise HostsError(f"hosts.toml: {name} needs an address from 2 to 254 of its own, not {spec.octet}")
        if spec.kind not in raw["packages"]:
            raise HostsError(f"hosts.toml: {name} has image {spec.kind!r}; there are: {' '.join(raw['packages'])}")
        owner_of[spec.octet] = name
        hosts[name] = spec
    return Catalogue(
        default=tuple(raw["default"]),
        disk_gb=raw["machine"]["disk_gb"],
        memory_mb=raw["machine"]["memory_mb"],
        shm_mb=raw["machine"]["shm_mb"],
        suites=suites,
        packages={kind: tuple(packages) for kind, packages in raw["packages"].items()},
        hosts=hosts,
    )


@dataclass(frozen=True)
class Addresses:
    """Names and addresses of the set with this number; sets never share one of them."""

    number: int  # 0 to 99

    @property
    def subnet(self) -> str:
        return f"10.87.{self.number}.0/24"

    @property
    def gateway(self) -> str:
        return f"10.87.{self.number}.1"

    @property
    def bridge(self) -> str:
        return f"fleet{self.number}"

    @property
    def bridge_mac(self) -> str:
        return f"02:f1:ee:{self.number:02x}:00:01"

    @property
    def table(self) -> str:
        """Name of the set's nftables tables."""
        return f"dbops_fleet_{self.number}"

    def of(self, spec: HostSpec) -> str:
        return f"10.87.{self.number}.{spec.octet}"

    def mac(self, spec: HostSpec) -> str:
        return f"02:f1:ee:{self.number:02x}:00:{spec.octet:02x}"

    def link(self, spec: HostSpec) -> str:
        """The machine's end of the host's network cable (a name of at most 15 characters) and its network namespace."""
        return f"f{self.number}-{spec.name}"


def etc_hosts(catalogue: Catalogue, addresses: Addresses, own_name: str) -> str:
    """/etc/hosts of one host: every host of the set by name, and the controller."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines.append(f"{addresses.gateway} {CONTROLLER}")
    lines += [f"{addresses.of(spec)} {name}" for name, spec in catalogue.hosts.items()]
    if own_name not in catalogue.hosts:
        raise HostsError(f"unknown host {own_name}")
    return "\n".join(lines) + "\n"
