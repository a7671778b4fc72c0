# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository in a directory: a local disk, or a share that somebody mounted."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.repository.problems import (
    ObjectCorrupt,
    ObjectExists,
    ObjectMissing,
    StoreUnavailable,
)
from ansible_collections.dbops.fleet.plugins.module_utils.repository.store.interface import StoredObject

# Unfinished writes carry this ending and are never listed.
UNFINISHED = ".unfinished"


class DirectoryStore:
    """Objects as files below one directory.

    A file appears under its name complete and fsynced, or not at all: it is written under another name and linked,
    because link(2) fails where rename(2) would overwrite.
    """

    refuses_overwriting = True

    def __init__(self, root: str | Path) -> None:
        """Args: root: absolute path. It must exist: an unmounted share must not be mistaken for an empty repository."""
        self._root = Path(root)

    @property
    def address(self) -> str:
        return str(self._root)

    def create(self, key: str, data: bytes) -> None:
        target = self._path(key)
        with self._naming_errors(key):
            self._make_directory(target.parent)
            unfinished = target.parent / f".{uuid.uuid4().hex}{UNFINISHED}"
            try:
                self._write(unfinished, data)
                os.link(unfinished, target)
            except FileExistsError:
                raise ObjectExists(f"{key} is already in {self.address}") from None
            finally:
                with contextlib.suppress(OSError):
                    unfinished.unlink()
            _fsync_directory(target.parent)

    def read(self, key: str) -> bytes:
        with self._naming_errors(key):
            return self._path(key).read_bytes()

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        with self._naming_errors(key), self._path(key).open("rb") as file:
            data = os.pread(file.fileno(), length, offset)
            os.posix_fadvise(file.fileno(), offset, length, os.POSIX_FADV_DONTNEED)  # as in _write
        if len(data) != length:
            raise ObjectCorrupt(
                f"{key} in {self.address} ends at byte {offset + len(data)}, {offset + length} are needed"
            )
        return data

    def list(self, prefix: str, after: str = "") -> Iterator[StoredObject]:
        directory, _slash, beginning = prefix.rpartition("/")
        with self._naming_errors(prefix):
            if not self._root.is_dir():
                raise FileNotFoundError(errno.ENOENT, "the repository's directory does not exist", self.address)
            found = sorted(self._walk(directory, beginning, after), key=lambda item: item.key)
        yield from found

    def delete(self, key: str) -> None:
        with self._naming_errors(key):
            self._path(key).unlink(missing_ok=True)

    def sweep(self, before: float) -> int:
        swept = 0
        with self._naming_errors(""):
            for path in self._root.rglob(f".*{UNFINISHED}"):
                with contextlib.suppress(FileNotFoundError):  # its writer has just ended
                    if path.stat().st_mtime < before:
                        path.unlink()
                        swept += 1
        return swept

    def _path(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise ValueError(f"not a key: {key!r}")
        return self._root / key

    def _walk(self, directory: str, beginning: str, after: str) -> Iterator[StoredObject]:
        try:
            entries = list(os.scandir(self._root / directory))
        except FileNotFoundError:
            return
        for entry in entries:
            key = f"{directory}/{entry.name}" if directory else entry.name
            if not entry.name.startswith(beginning) or entry.name.endswith(UNFINISHED):
                continue
            if entry.is_dir(follow_symlinks=False):
                # A directory whose every key sorts before `after` need not be read.
                if f"{key}/" > after or after.startswith(f"{key}/"):
                    yield from self._walk(key, "", after)
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # deleted by retention while we looked
                continue
            if stat.S_ISREG(status.st_mode) and key > after:
                yield StoredObject(key, status.st_size, status.st_mtime)

    def _make_directory(self, directory: Path) -> None:
        if directory.is_dir():
            return
        if directory == self._root:
            raise FileNotFoundError(errno.ENOENT, "the repository's directory does not exist", self.address)
        self._make_directory(directory.parent)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o750)
        _fsync_directory(directory.parent)

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            # What was written is not read again soon: the memory is better used for the database's pages.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _naming_errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if self._root.is_dir():
                raise ObjectMissing(f"{key} is not in {self.address}") from None
            raise StoreUnavailable(
                f"The repository's directory {self.address} does not exist",
                remedy="Mount or create it; an empty directory in its place would not be accepted either.",
            ) from None
        except OSError as error:
            raise StoreUnavailable(
                f"{self.address}: {key}: {error.strerror or error}", remedy=_remedy(error)
            ) from error


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remedy(error: OSError) -> str | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Make room in the repository: extend the disk, or shorten retention and run `dbops expire`."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "The repository must be writable by the account that PostgreSQL runs as."
    return None
