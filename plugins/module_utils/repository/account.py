# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Acting as PostgreSQL's own account when started as root, so that files get the right owner and `peer` lets us in."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed


@contextlib.contextmanager
def owner_of(data_directory: str) -> Iterator[None]:
    """Be the owner of a data directory for a while; does nothing when not root.

    Raises:
        OperationFailed: there is no such directory.
    """
    if os.geteuid() != 0:
        yield
        return
    try:
        status = Path(data_directory).stat()
    except OSError as error:
        raise OperationFailed(f"Cannot look at the data directory {data_directory}: {error.strerror}") from None
    with _identity(status.st_uid, status.st_gid):
        yield


@contextlib.contextmanager
def user(name: str) -> Iterator[None]:
    """Be this account for a while; does nothing when not root. For where no data directory is left to ask.

    Raises:
        OperationFailed: there is no such account.
    """
    if os.geteuid() != 0:
        yield
        return
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise OperationFailed(f"There is no account {name} here", remedy="Install PostgreSQL.") from None
    with _identity(found.pw_uid, found.pw_gid):
        yield


@contextlib.contextmanager
def _identity(user_id: int, group_id: int) -> Iterator[None]:
    groups = os.getgroups()
    os.setgroups([group_id])
    os.setresgid(group_id, group_id, 0)
    os.setresuid(user_id, user_id, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
