# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a repository still has all of a backup, and this host its keys: asked before a restore touches the disk."""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Backup, Listed
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf


def refuse_incomplete(shelf: Shelf, backup: Backup, listed: Iterable[Listed]) -> None:
    """Read the whole index, and compare what it needs with what is there. The content of packs is checked when read.

    Args:
        shelf: of the backup.
        backup: that is to be restored.
        listed: all backups, to name another one.

    Raises:
        Refused: a pack is missing or too short.
        ObjectCorrupt: the index is damaged.
        OperationFailed: no key here opens it.
    """
    needed: dict[tuple[str, int], int] = {}
    for member in shelf.members(backup):
        for frame in member.frames:
            pack = (frame.backup, frame.pack)
            needed[pack] = max(needed.get(pack, 0), frame.offset + frame.length)
    sizes = {
        item.key: item.size
        for owner in {owner for owner, _number in needed}
        for item in shelf.repository.store.list(layout.backup_prefix(shelf.system, owner))
    }
    wrong = []
    for (owner, number), size in sorted(needed.items()):
        key = layout.pack_object(shelf.system, owner, number)
        if key not in sizes:
            wrong.append(f"{key} is missing")
        elif sizes[key] < size:
            wrong.append(f"{key} has {sizes[key]} bytes, {size} are needed")
    if wrong:
        raise Refused(
            f"Repository {shelf.repository.name} does not have all of {backup.id}: {'; '.join(wrong[:3])}"
            + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""),
            remedy=_remedy(backup, listed, {owner for (owner, _number), _size in needed.items()}),
        )


def _remedy(backup: Backup, listed: Iterable[Listed], owners: set[str]) -> str:
    """Another backup, first those that share no pack with this one."""
    others = [item.backup for item in listed if item.backup.id != backup.id and not item.bad]
    others.sort(key=lambda other: (not owners.isdisjoint(other.packs), -other.stop_time))
    if not others:
        return "There is no other backup here; try another repository."
    return f"Name another backup, such as {others[0].id}, or another repository."
