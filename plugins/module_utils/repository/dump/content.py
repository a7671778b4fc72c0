# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a dump out of the repository, each frame checked against its hash, and proving that it can be read."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.repository import layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.index import Frame
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Verification
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump import programs
from ansible_collections.dbops.fleet.plugins.module_utils.repository.dump.entry import GLOBALS, Dump
from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    ObjectCorrupt,
    ObjectMissing,
    StoreUnavailable,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.files import unpack
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf

# Stored bytes that one read of a pack asks for at most.
READ_BYTES = 8 << 20


def read(shelf: Shelf, dump: Dump, path: str) -> Iterator[bytes]:
    """The content of one member, such as `dump/globals.sql`, in pieces.

    Raises:
        ObjectCorrupt: something of it is missing or not as it was written.
    """
    for member in shelf.members(dump):
        if member.path == path:
            for run in _runs(member.frames):
                yield from _read_run(shelf, run)
            return
    raise ObjectCorrupt(f"{shelf.repository.store.address}: {dump.id} has no {path}")


def verify(shelf: Shelf, dump: Dump, bin_directory: str) -> Verification:
    """Read a dump completely, have pg_restore read it to its end as well, and record the result.

    Raises:
        StoreUnavailable: the repository did not answer; that says nothing about the dump, so nothing is recorded.
    """
    started = time.time()
    message = f"{len(dump.databases)} databases are as they were written, and pg_restore reads them to the end"
    good = True
    try:
        for database in dump.databases:
            programs.read_through(bin_directory, read(shelf, dump, database.member))
        if dump.globals:
            for _piece in read(shelf, dump, GLOBALS):
                pass
    except StoreUnavailable:
        raise
    except FleetError as error:
        message, good = str(error), False
    seconds = round(time.time() - started, 3)
    verification = Verification(dump.id, "read", time.time(), good, message, {"seconds": seconds})
    shelf.record(verification)
    return verification


def _runs(frames: tuple[Frame, ...]) -> Iterator[list[Frame]]:
    """Frames that lie one behind the other in a pack, so that one read gets them all."""
    run: list[Frame] = []
    for frame in frames:
        if run and not (
            (run[-1].backup, run[-1].pack, run[-1].offset + run[-1].length) == (frame.backup, frame.pack, frame.offset)
            and frame.offset + frame.length - run[0].offset <= READ_BYTES
        ):
            yield run
            run = []
        run.append(frame)
    if run:
        yield run


def _read_run(shelf: Shelf, run: list[Frame]) -> Iterator[bytes]:
    first, last = run[0], run[-1]
    key = layout.pack_object(shelf.system, first.backup, first.pack)
    try:
        stored = shelf.repository.store.read_range(key, first.offset, last.offset + last.length - first.offset)
    except ObjectMissing as error:
        raise ObjectCorrupt(f"{error.message}, but a dump needs it", remedy="Take another dump.") from None
    for frame in run:
        start = frame.offset - first.offset
        yield unpack(shelf, frame, stored[start : start + frame.length])
