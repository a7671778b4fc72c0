# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""List 5.1, 29: what a directory repository has acknowledged is there after its host lost power, whole."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.support import on_host

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

from hosts.fixtures import Hosts  # noqa: E402

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.timeout(600)]

HOST = "pg1"
PLACE = "/var/tmp/engine"
PROGRAM = f"""
import hashlib, json, os, pathlib, sys, uuid
sys.path.insert(0, "{PLACE}")
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.directory import DirectoryStore
root = pathlib.Path("/var/tmp/repository")
root.mkdir(exist_ok=True)
store = DirectoryStore(root)
"""
WRITE = """
written = {}
for number in range(8):
    data = os.urandom(1 << 20)
    key = f"1/wal/{uuid.uuid4().hex}/{number}"
    store.create(key, data)
    written[key] = hashlib.sha256(data).hexdigest()
print(json.dumps(written))
"""
READ = "print(json.dumps({item.key: hashlib.sha256(store.read(item.key)).hexdigest() for item in store.list('')}))"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """The engine's files on a host, synced before any power is cut."""
    made = Hosts()
    made.up(HOST)
    on_host.send(made, HOST, f"{PLACE}/ansible_collections/dbops/fleet", "plugins/module_utils")
    yield made
    made.up(HOST)
    made.ssh(HOST, f"rm -rf {PLACE} /var/tmp/repository")


def run(hosts: Hosts, program: str) -> dict[str, str]:
    return dict(json.loads(hosts.ssh(HOST, f"python3 - <<'END'\n{PROGRAM}{program}\nEND\n")))


def test_29_what_was_acknowledged_outlives_a_power_cut_right_after_it(hosts: Hosts) -> None:
    promised: dict[str, str] = {}
    for _ in range(4):
        promised |= run(hosts, WRITE)
        hosts.power_off(HOST)
        hosts.power_on(HOST)
        assert run(hosts, READ) == promised
