# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules that work with repositories of WAL, base backups and dumps."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  config_file:
    description: Configuration of the engine, written by the role C(backup).
    type: path
    default: /etc/dbops-fleet/backup.json
"""

    DIRECTORY = r"""
options:
  engine_directory:
    description: Where the engine and the command C(dbops) are installed; a replaying server fetches WAL with it.
    type: path
    default: /usr/lib/dbops-fleet
"""

    CLUSTER = r"""
options:
  system_identifier:
    description: Of the cluster, where the repository knows several. The newest if not given.
    type: int
"""

    OWNER = r"""
options:
  owner:
    description: Account of PostgreSQL, which the module acts as when it is started as root.
    type: str
    default: postgres
"""
