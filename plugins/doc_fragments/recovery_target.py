# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules that replay WAL up to a point in time."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  target:
    description: Where recovery ends; V(immediate) is the end of the backup itself.
    type: str
    choices: [latest, immediate, time, lsn, xid, name]
    default: latest
  value:
    description: The time with its zone such as V(2026-03-01 14:30:00+01:00), LSN, transaction id or restore point.
    type: str
  timeline:
    description: V(latest), V(current) for that of the backup, or a number.
    type: str
    default: latest
  backup:
    description: Start from this one. The newest from which the target can be reached if not given.
    type: str
"""
