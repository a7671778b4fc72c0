# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible lookup: the files that make up the engine on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: engine_files
short_description: The files of the engine, for a host that has to work without a controller
version_added: 0.1.0
description:
  - Gives what M(dbops.fleet.managed_files) takes, for C(module_utils) of this collection as it is and for the command
    C(dbops).
author:
  - dbops.fleet contributors (@dbops)
options:
  _terms:
    description: Directory on the host that the engine goes into.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Install the engine
  dbops.fleet.managed_files:
    directories: "{{ engine.directories }}"
    files: "{{ engine.files }}"
  vars:
    engine: "{{ lookup('dbops.fleet.engine_files', '/usr/lib/dbops-fleet') }}"
"""

RETURN = r"""
_raw:
  description: One dictionary for each directory that was named.
  type: list
  elements: dict
  contains:
    directories:
      description: Directories to make, parents first.
      type: list
      elements: dict
    files:
      description: Files with their content and mode.
      type: list
      elements: dict
"""

from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.commands import ENGINE, launcher

SOURCE = Path(__file__).absolute().parents[1] / "module_utils"
# What a host without Ansible cannot use.
LEFT_OUT = ("adapter.py", "clone/", "failover/", "files/", "pooler/", "topology/")


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[dict[str, list[dict[str, str]]]]:
        return [_files_for(str(term)) for term in terms]


def _files_for(directory: str) -> dict[str, list[dict[str, str]]]:
    names = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
    wanted = [name for name in names if not name.startswith(LEFT_OUT)]
    files = [
        {"path": f"{directory}/{ENGINE}/{name}", "content": (SOURCE / name).read_text(encoding="utf-8"), "mode": "0644"}
        for name in wanted
    ]
    parents = {
        str(parent) for file in files for parent in Path(file["path"]).parents if len(str(parent)) > len(directory)
    }
    directories = [{"path": path} for path in sorted({directory, *parents})]
    files.append({"path": f"{directory}/dbops", "content": launcher(directory), "mode": "0755"})
    return {"directories": directories, "files": files}
