# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `restore_command` answers PostgreSQL. A wrong answer here loses commits without a word.

PostgreSQL takes every exit code from 1 to 125 as "the archive ends here". In archive recovery it then ends recovery and
opens the database; above 125 it stops with FATAL and can be started again. A server with `standby.signal` only asks
again a few seconds later, so there an error must not stop it.
"""

from __future__ import annotations

import enum

from ansible_collections.dbops.fleet.plugins.module_utils.repository.wal.segments import Kind, kind_of

DELIVERED = 0
NOT_THERE = 1
STOP = 126


class Found(enum.Enum):
    """What looking for a WAL file came to."""

    DELIVERED = "delivered, checked and in place"
    ABSENT = "every repository answered, and has neither this file nor a later one of its timeline"
    GAP = "not there, but a later segment of the same timeline is: the archive has a gap"
    CONFLICT = "there with two different contents"
    FAILED = "a repository did not answer, or what it gave failed the checks"


def exit_code(found: Found, name: str, *, standby: bool) -> int:
    """The exit code for PostgreSQL.

    Args:
        found: what happened.
        name: the file that was asked for (`%f`).
        standby: whether the asking server has a `standby.signal` and so never ends recovery by itself.
    """
    if found is Found.DELIVERED:
        return DELIVERED
    if found is Found.ABSENT:
        return NOT_THERE
    if found is Found.GAP and kind_of(name) is Kind.HISTORY:
        # Timelines may be numbered with holes; a missing history is nothing but missing.
        return NOT_THERE
    return NOT_THERE if standby else STOP
