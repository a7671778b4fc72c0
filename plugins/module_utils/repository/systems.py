# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systems in a repository: a cluster gets another system identifier by a major upgrade or a new initdb."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import is_dump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import NoSystem, ObjectMissing
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository


@dataclass(frozen=True)
class System:
    """One of them.

    Attributes:
        identifier: the system identifier.
        major: version of PostgreSQL.
        created: when the repository came to know it, seconds since the epoch.
    """

    identifier: int
    major: int
    created: float


def known(repository: Repository) -> tuple[System, ...]:
    """Every system that the repository knows, the newest last."""
    found = []
    for identifier in _identifiers(repository):
        try:
            facts = repository.get_json(layout.system_object(identifier))
        except ObjectMissing:
            continue
        found.append(System(identifier, facts["major"], facts["created"]))
    return tuple(sorted(found, key=lambda one: one.created))


def system_of(repository: Repository, wanted: int | None) -> int:
    """The wanted system, or the newest.

    Raises:
        NoSystem: the repository does not know it, or none at all.
    """
    chosen = [one.identifier for one in known(repository) if wanted in (None, one.identifier)]
    if not chosen:
        raise NoSystem(f"Repository {repository.name} knows no system {wanted or ''}".rstrip())
    return chosen[-1]


def with_backups(repository: Repository, besides: int) -> list[dict[str, Any]]:
    """The other systems that have backups, the newest last.

    Their catalogues are not read: one that is damaged must not stand in the way of the system that is wanted.

    Returns:
        Of each its `system_identifier`, `version`, how many `backups`, and the id of the `newest`, which begins with
        the date.
    """
    found = []
    for one in known(repository):
        if one.identifier == besides:
            continue
        listed = repository.store.list(layout.catalog_prefix(one.identifier))
        names = [name for item in listed if not is_dump(name := PurePosixPath(item.key).stem)]
        if names:
            identity = {"system_identifier": str(one.identifier), "version": one.major}
            found.append({**identity, "backups": len(names), "newest": max(names)})
    return found


def warnings(repository: Repository, system: int) -> list[str]:
    """What to say when this system is made known to a repository that has backups of others."""
    return [
        f"Repository {repository.name} has {other['backups']} backups (the newest: {other['newest']}) of system "
        f"{other['system_identifier']}, PostgreSQL {other['version']}, and this cluster is system {system}. "
        "That is right after a major upgrade. If that cluster was lost and should be restored, see "
        "disaster_recovery_system in disaster_recovery.yml"
        for other in with_backups(repository, besides=system)
    ]


def _identifiers(repository: Repository) -> Iterator[int]:
    """What is below a system is not read: a repository may have millions of objects."""
    after = ""
    while (item := next(iter(repository.store.list("", after)), None)) is not None:
        system, slash, _rest = item.key.partition("/")
        if slash and system.isdigit():
            yield int(system)
        # "0" comes right behind "/".
        after = f"{system}0" if slash else item.key
