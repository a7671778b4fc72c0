# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SSH keys of a checkout: one key pair to log in with, a host key per host, and known_hosts that names them all."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from fleet_hosts.catalogue import Addresses, Catalogue
from fleet_hosts.shell import run


@dataclass(frozen=True)
class Keys:
    """Key files of one set under the state directory of a checkout."""

    state: Path
    set_name: str

    @property
    def private_key_file(self) -> Path:
        return self.state / "id_ed25519"

    @property
    def known_hosts_file(self) -> Path:
        return self.state / self.set_name / "known_hosts"

    def public_key(self) -> str:
        return self.private_key_file.with_suffix(".pub").read_text()

    def host_key(self, name: str) -> Path:
        """The private host key; it stays the same however often the host is made anew."""
        return self.state / self.set_name / "host_keys" / name

    def identity(self, name: str) -> str:
        """What a host made with the present keys is recorded with. A host with another one cannot be logged in to."""
        text = self.public_key() + self.host_key(name).with_suffix(".pub").read_text()
        return hashlib.sha256(text.encode()).hexdigest()

    def ensure(self, catalogue: Catalogue, addresses: Addresses) -> None:
        """Generate what is missing, for every host of the catalogue: known_hosts is complete before a host exists."""
        owner = _owner_of_nearest(self.state)
        self.host_key("").mkdir(mode=0o700, parents=True, exist_ok=True)
        _generate(self.private_key_file, "fleet-hosts")
        for name in catalogue.hosts:
            _generate(self.host_key(name), name)
        lines = [
            f"{addresses.of(spec)} {self.host_key(name).with_suffix('.pub').read_text()}"
            for name, spec in catalogue.hosts.items()
        ]
        if not self.known_hosts_file.exists() or self.known_hosts_file.read_text() != "".join(lines):
            self.known_hosts_file.write_text("".join(lines))
        # The tool may run under sudo; Ansible runs as the owner of the checkout and must be able to read the key.
        for path in (self.state, *self.state.rglob("*")):
            os.chown(path, *owner)


def _owner_of_nearest(path: Path) -> tuple[int, int]:
    """User and group ID of the nearest directory upwards that exists."""
    while not path.exists():
        path = path.parent
    status = path.stat()
    return status.st_uid, status.st_gid


def _generate(path: Path, comment: str) -> None:
    # The public half is written last, and moved into place: a pair is there whole or not at all.
    public = path.with_suffix(".pub")
    if public.exists() and path.exists():
        return
    temporary = path.with_name(f".{path.name}.new")
    for leftover in (temporary, temporary.with_suffix(".pub"), Path(f"{temporary}.pub")):
        leftover.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(temporary)])
    temporary.rename(path)
    Path(f"{temporary}.pub").rename(public)
