# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's own tests on a Debian 13 host: PostgreSQL 17, Python 3.13, and Debian's boto3, psycopg and zstandard.

A Debian 12 machine runs them with PostgreSQL 15; this copies the checkout to a host and runs them there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from ansible_collections.dbops.fleet.tests.support import on_host

sys.path.insert(0, str(on_host.CHECKOUT / "tests"))

from hosts.fixtures import Hosts

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.timeout(1800)]

HOST = "pg1"
PLACE = "/var/tmp/dbops-tests"
FILES = (
    *sorted(
        str(path.relative_to(on_host.CHECKOUT))
        for path in (on_host.CHECKOUT / "tests/integration/repository").glob("test_*.py")
    ),
    "tests/faults/test_archive_faults.py",
    "tests/faults/test_backup_faults.py",
    "tests/faults/test_backup_oracle.py",
)
LIBRARIES = "python3-boto3 python3-psycopg python3-zstandard"
PACKAGES = f"ansible-core jq pgbackrest python3-pytest python3-pytest-timeout zstd {LIBRARIES}"
# It plays the S3 server in some tests, and Debian has it not; test_archive_radosgw.py has S3 on a host.
WITHOUT_MOTO = "not test_s3 and not two_repositories and not missing_bucket"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """The checkout on a host that can run its tests."""
    made = Hosts()
    made.up(HOST)
    install = "export DEBIAN_FRONTEND=noninteractive; apt-get --quiet=2 update && apt-get --quiet=2 "
    install += f"--no-install-recommends install {PACKAGES}"
    made.ssh(HOST, f"dpkg --status {PACKAGES} >/dev/null 2>&1 || {{ {install}; }} >/dev/null", timeout=600)
    on_host.send(made, HOST, PLACE, "ansible.cfg", "docs", "galaxy.yml", "meta", "plugins", "pyproject.toml", "tests")
    yield made
    made.ssh(HOST, f"rm -rf {PLACE}")


@pytest.mark.parametrize("tests", FILES)
def test_with_postgresql_17_the_engines_tests_pass_as_well(hosts: Hosts, tests: str) -> None:
    # /tmp is in memory there. What ssh has left behind ends by itself.
    run = f"cd {PLACE} && TMPDIR=/var/tmp timeout 1200 python3 -m pytest -q -m 'not slow' -k '{WITHOUT_MOTO}' {tests}"
    done = subprocess.run(hosts.ssh_command(HOST, run), capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]
