# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine has to know of the cluster on this host, read from its data directory."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.control import ControlData
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config


@dataclass(frozen=True)
class Cluster:
    """The identity of a cluster.

    Attributes:
        system: system identifier.
        major: PostgreSQL's version.
        segment_size: bytes of a WAL segment.
    """

    system: int
    major: int
    segment_size: int


def read(config: Config) -> Cluster:
    """From `PG_VERSION` and `pg_controldata`.

    Raises:
        OperationFailed: there is no readable data directory where the configuration says.
    """
    control = read_control(config)
    return Cluster(int(control.system_identifier), read_major(config.data_directory), control.wal_segment_size)


def read_control(config: Config) -> ControlData:
    """Raises OperationFailed."""
    command = [f"{config.bin_directory}/pg_controldata", "-D", config.data_directory]
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=environment)
        return ControlData.parse(done.stdout)
    except subprocess.CalledProcessError as error:
        raise OperationFailed(f"pg_controldata of {config.data_directory} failed: {error.stderr.strip()}") from None
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise OperationFailed(f"Cannot read the control file of {config.data_directory}: {error}") from None


def read_major(data_directory: str) -> int:
    """Raises OperationFailed."""
    try:
        return int((Path(data_directory) / "PG_VERSION").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise OperationFailed(f"{data_directory} is no data directory of PostgreSQL: {error}") from None
