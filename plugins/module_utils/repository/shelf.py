# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what a repository says about its backups and dumps, and adding records to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.index import Member
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import (
    Backup,
    Listed,
    Verification,
    utc,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import Dump, ListedDump, is_dump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import ObjectCorrupt, ObjectExists
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository

# A backup that has written nothing for so long is not running any more.
ABANDONED_SECONDS = 24 * 3600
# Between the copy of an entry and the entry itself lies less than this.
SETTLED_SECONDS = 120.0
# Ids have one for each second.
_BEGIN_TRIES = 5


@dataclass(frozen=True)
class Unfinished:
    """A backup that has no catalogue entry.

    Attributes:
        backup: id.
        base: the backup whose frames it uses; None for a full one.
        newest: when it last wrote, seconds since the epoch by the store's clock.
    """

    backup: str
    base: str | None
    newest: float

    def running(self, now: float) -> bool:
        return now - self.newest < ABANDONED_SECONDS


class Shelf:
    """The backups and dumps of one system in one repository."""

    def __init__(self, repository: Repository, system: int) -> None:
        self.repository = repository
        self.system = system

    def listed(self) -> tuple[Listed, ...]:
        """Every complete backup with its pin and its newest verification, oldest first.

        Raises:
            ObjectCorrupt: an entry of the catalogue is damaged.
        """
        pinned, verified = self._pinned(), self._verified()
        keys = [item.key for item in self._list(layout.catalog_prefix(self.system)) if not is_dump(_name(item.key))]
        found = (Listed(one, pinned.get(one.id), verified.get(one.id)) for one in map(self._backup, keys))
        return tuple(sorted(found, key=lambda one: (one.backup.stop_time, one.backup.id)))

    def dumps(self) -> tuple[ListedDump, ...]:
        """Every complete dump with its pin and its newest verification, oldest first.

        Raises:
            ObjectCorrupt: an entry of the catalogue is damaged.
        """
        pinned, verified = self._pinned(), self._verified()
        keys = [item.key for item in self._list(layout.catalog_prefix(self.system)) if is_dump(_name(item.key))]
        found = (ListedDump(one, pinned.get(one.id), verified.get(one.id)) for one in map(self._dump, keys))
        return tuple(sorted(found, key=lambda one: (one.stop_time, one.id)))

    def unfinished(self) -> tuple[Unfinished, ...]:
        """Backups that were begun and are not in the catalogue: running ones, and the remains of broken ones."""
        return tuple(one for one in self._unfinished() if not is_dump(one.backup))

    def unfinished_dumps(self) -> tuple[Unfinished, ...]:
        """Likewise of dumps."""
        return tuple(one for one in self._unfinished() if is_dump(one.backup))

    def complete(self) -> set[str]:
        """Ids of the backups and dumps in the catalogue."""
        return {_name(item.key) for item in self._list(layout.catalog_prefix(self.system))}

    def is_begun(self, backup: str) -> bool:
        """Whether its begun-mark is there. It is written before anything else, and retention takes it away first."""
        return any(True for _found in self._list(layout.begun_object(self.system, backup)))

    def _unfinished(self) -> tuple[Unfinished, ...]:
        complete = self.complete()
        begun: dict[str, str | None] = {}
        newest: dict[str, float] = {}
        for item in self._list(f"{self.system}/backup/"):
            backup = item.key.split("/")[2]
            if backup in complete:
                continue
            newest[backup] = max(newest.get(backup, 0.0), item.modified)
            if item.key == layout.begun_object(self.system, backup):
                begun[backup] = self.repository.get_json(item.key)["base"]
        return tuple(Unfinished(backup, base, newest[backup]) for backup, base in sorted(begun.items()))

    def members(self, backup: Backup | Dump) -> Iterator[Member]:
        """The index of a backup or dump, checked against the hashes in its catalogue entry."""
        for number, sha256 in enumerate(backup.index, 1):
            key = layout.index_object(self.system, backup.id, number)
            text = self.repository.decode(self.repository.store.read(key), key, sha256).decode("utf-8")
            for line in text.splitlines():
                try:
                    yield Member.parse(line)
                except ValueError as error:
                    raise ObjectCorrupt(f"{self.repository.store.address}: {key}: {error}") from None

    def begin(self, backup: str, base: str | None) -> None:
        """Say that a backup runs, so that retention leaves alone what it uses.

        Raises:
            Refused: another one of that id exists.
        """
        key = layout.begun_object(self.system, backup)
        try:
            self.repository.put_json(key, {"base": base, "time": time.time()})
        except ObjectExists:
            raise Refused(f"A backup {backup} exists already", remedy="Start again in a second.") from None

    def begin_now(self, name: Callable[[float], str], base: str | None) -> tuple[str, float]:
        """`begin` under an id that names this second, or one of the next where others have begun in it.

        Args:
            name: the id of what begins at a moment, in seconds since the epoch.

        Returns:
            The id and the moment.

        Raises:
            Refused: the seconds were all taken.
        """
        for tries_left in reversed(range(_BEGIN_TRIES)):
            moment = time.time()
            try:
                self.begin(name(moment), base)
            except Refused:
                if not tries_left:
                    raise
                time.sleep(1 - time.time() % 1)
            else:
                break
        return name(moment), moment

    def add(self, backup: Backup | Dump) -> None:
        """List a complete backup or dump: the last thing that is written."""
        self.repository.put_json(layout.entry_object(self.system, backup.id), backup.to_dict())
        self.repository.put_json(layout.catalog_object(self.system, backup.id), backup.to_dict())

    def unlisted(self) -> tuple[str, ...]:
        """Complete backups and dumps whose catalogue entry is gone without retention having removed them.

        Retention takes the begun-mark away first, so what has one and a copy of its entry was not removed by it.
        """
        settled = time.time() - SETTLED_SECONDS
        waiting = (one.backup for one in self._unfinished() if one.newest < settled)
        return tuple(
            one for one in waiting if any(True for _found in self._list(layout.entry_object(self.system, one)))
        )

    def relist(self, backup: str) -> None:
        """Make a lost catalogue entry again.

        Raises:
            Refused: it is not lost.
            OperationFailed: packs are gone as well, so it is given up: its remains go with the next `dbops expire`.
        """
        if backup not in self.unlisted():
            raise Refused(
                f"{backup} is no backup that lost its catalogue entry", remedy="`dbops check` names those that did."
            )
        key = layout.entry_object(self.system, backup)
        entry = self._dump(key) if is_dump(backup) else self._backup(key)
        try:
            self.refuse_missing_packs(entry)
        except OperationFailed:
            self.repository.store.delete(layout.begun_object(self.system, backup))
            raise
        self.repository.put_json(layout.catalog_object(self.system, backup), entry.to_dict())

    def pin(self, backup: str, reason: str) -> None:
        """Keep a backup whatever retention says."""
        self._expect(backup)
        try:
            self.repository.put_json(layout.pin_object(self.system, backup), {"reason": reason, "time": time.time()})
        except ObjectExists:
            raise Refused(f"{backup} is pinned already: {self._reason(backup)}") from None

    def unpin(self, backup: str) -> None:
        self._expect(backup)
        self.repository.store.delete(layout.pin_object(self.system, backup))

    def record(self, verification: Verification) -> None:
        """Add the result of a check."""
        what = "drill" if verification.how == "drill" else "verification"
        moment = f"{utc(verification.time):%Y%m%d-%H%M%S.%f}"
        self.repository.put_json(
            layout.record_object(self.system, what, verification.backup, moment), verification.to_dict()
        )

    def _expect(self, backup: str) -> None:
        if not any(item.key for item in self._list(layout.catalog_object(self.system, backup))):
            raise Refused(
                f"There is no backup {backup} in repository {self.repository.name}", remedy="See `dbops list`."
            )

    def _list(self, prefix: str) -> Iterator[Any]:
        return self.repository.store.list(prefix)

    def remove_dump(self, identifier: str) -> None:
        """Take a dump out of the catalogue; what it wrote and nobody else needs goes with the next `dbops expire`."""
        for key in (layout.begun_object(self.system, identifier), layout.catalog_object(self.system, identifier)):
            self.repository.store.delete(key)

    def refuse_missing_packs(self, entry: Backup | Dump) -> None:
        """Retention on another host could have removed a pack that this backup refers to.

        Raises:
            OperationFailed: it has.
        """
        for owner, numbers in entry.packs.items():
            there = {item.key for item in self._list(layout.backup_prefix(self.system, owner))}
            for number in numbers:
                if layout.pack_object(self.system, owner, number) not in there:
                    raise OperationFailed(
                        f"Pack {number} of {owner} went away while {entry.id} used it; {entry.id} is not listed",
                        remedy="Start it again; a base backup with `dbops backup --full`.",
                    )

    def _pinned(self) -> dict[str, str]:
        names = [_name(item.key) for item in self._list(f"{self.system}/pin/")]
        return {name: self._reason(name) for name in names}

    def _verified(self) -> dict[str, Verification]:
        verified: dict[str, Verification] = {}
        for what in ("verification", "drill"):
            for backup, record in self._newest_records(what):
                known = verified.get(backup)
                if known is None or record.time > known.time:
                    verified[backup] = record
        return verified

    def _dump(self, key: str) -> Dump:
        try:
            return Dump.from_dict(self.repository.get_json(key))
        except ValueError as error:
            raise ObjectCorrupt(f"{self.repository.store.address}: {key}: {error}") from None

    def _backup(self, key: str) -> Backup:
        try:
            return Backup.from_dict(self.repository.get_json(key))
        except ValueError as error:
            raise ObjectCorrupt(f"{self.repository.store.address}: {key}: {error}") from None

    def _reason(self, backup: str) -> str:
        return str(self.repository.get_json(layout.pin_object(self.system, backup)).get("reason", ""))

    def _newest_records(self, what: str) -> Iterator[tuple[str, Verification]]:
        newest: dict[str, str] = {}
        for item in self._list(layout.record_prefix(self.system, what)):
            backup = item.key.split("/")[2]
            newest[backup] = max(newest.get(backup, ""), item.key)
        for backup, key in newest.items():
            yield backup, Verification.from_dict(self.repository.get_json(key))


def _name(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")
