# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Content into frames, frames into packs, packs into the repository: what is known already is only referred to."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from ansible_collections.dbops.fleet.plugins.module_utils.repository import compression, layout
from ansible_collections.dbops.fleet.plugins.module_utils.repository.backup.index import FRAME_BYTES, Frame, Member
from ansible_collections.dbops.fleet.plugins.module_utils.repository.repository import Repository

# Stored bytes of a pack. One PUT each.
PACK_BYTES = 16 << 20
# Packs that are on their way at a time, so that a store's latency is not waited for. One more is being filled.
UPLOADS = 2
# Raw bytes of index lines per part.
INDEX_PART_BYTES = 8 << 20
# Frames that are being hashed and compressed, or wait for it.
IN_FLIGHT = 16


class KnownFrames:
    """The frames that an earlier backup can lend.

    In a file of SQLite, so that memory does not grow with the database.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The empty name is a temporary file, deleted when closed.
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute(
            "create table frame (sha256 blob primary key, backup text, pack int, offset int, length int, raw "
            "int) without rowid"
        )

    def add(self, members: Iterable[Member]) -> None:
        rows = (
            (bytes.fromhex(frame.sha256), frame.backup, frame.pack, frame.offset, frame.length, frame.raw)
            for member in members
            for frame in member.frames
        )
        with self._lock, self._database:
            self._database.executemany("insert or ignore into frame values (?, ?, ?, ?, ?, ?)", rows)

    def find(self, sha256: bytes) -> Frame | None:
        query = "select backup, pack, offset, length, raw from frame where sha256 = ?"
        with self._lock:
            row = self._database.execute(query, (sha256,)).fetchone()
        if row is None:
            return None
        backup, pack, offset, length, raw = row
        return Frame(backup, pack, offset, length, raw, sha256.hex())

    def close(self) -> None:
        self._database.close()


class Writer:
    """Writes the packs and the index of one backup. Use it in a `with` block; `finish` completes it.

    Attributes:
        sent: bytes stored so far.
        size: raw bytes of files so far.
        files: files so far.
        packs: backup id -> numbers of the packs that the index refers to.
        index: SHA-256 of each part of the index written.
    """

    def __init__(
        self, repository: Repository, system: int, backup: str, known: KnownFrames, *, level: int, threads: int
    ) -> None:
        """Args: level: of zstd. threads: that hash and compress."""
        self._repository = repository
        self._system = system
        self._backup = backup
        self._known = known
        self._level = level
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="frame")
        self._uploader = ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload")
        self._uploads: deque[Future[None]] = deque()
        self._waiting: deque[Callable[[], None]] = deque()
        self._pack: list[bytes] = []
        self._pack_bytes = 0
        self._pack_number = 1
        self._lines: list[str] = []
        self._line_bytes = 0
        self.sent = 0
        self.size = 0
        self.files = 0
        self.index: list[str] = []
        self.packs: dict[str, set[int]] = {}

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._uploader.shutdown(wait=True, cancel_futures=True)

    def frame(self, raw: bytes, frames: list[Frame]) -> None:
        """Take the next piece of a file

        its Frame is appended to `frames` in due time, before the member is written.
        """
        future = self._workers.submit(self._encode, raw)
        self._later(lambda: frames.append(self._place(*future.result())))

    def member(self, member: Member, frames: list[Frame]) -> None:
        """Take a member whose pieces were all given. A file that the server ended early or late is taken as it came."""
        self._later(lambda: self._line(member, tuple(frames)))

    def finish(self) -> None:
        """Write everything that is left and wait for it."""
        while self._waiting:
            self._waiting.popleft()()
        self._end_pack()
        self._end_index_part()
        self._await_uploads(0)

    def _later(self, act: Callable[[], None]) -> None:
        self._waiting.append(act)
        while len(self._waiting) > IN_FLIGHT:
            self._waiting.popleft()()

    def _encode(self, raw: bytes) -> tuple[bytes, int, Frame | bytes]:
        """(hash, raw bytes, the known frame or what is to be stored)."""
        sha256 = hashlib.sha256(raw).digest()
        known = self._known.find(sha256)
        if known is not None and known.raw == len(raw):
            return sha256, len(raw), known
        return sha256, len(raw), self._repository.wrap(compression.compress_frame(raw, self._level))

    def _place(self, sha256: bytes, raw: int, stored: Frame | bytes) -> Frame:
        self.size += raw
        if isinstance(stored, Frame):
            self.packs.setdefault(stored.backup, set()).add(stored.pack)
            return stored
        if self._pack_bytes + len(stored) > PACK_BYTES and self._pack:
            self._end_pack()
        frame = Frame(self._backup, self._pack_number, self._pack_bytes, len(stored), raw, sha256.hex())
        self._pack.append(stored)
        self._pack_bytes += len(stored)
        self.packs.setdefault(self._backup, set()).add(self._pack_number)
        return frame

    def _line(self, member: Member, frames: tuple[Frame, ...]) -> None:
        size = sum(frame.raw for frame in frames)
        whole = Member(member.path, member.type, member.mode, size, member.mtime, member.target, frames)
        line = whole.line()
        self.files += member.type == "file"
        self._lines.append(line)
        self._line_bytes += len(line)
        if self._line_bytes >= INDEX_PART_BYTES:
            self._end_index_part()

    def _end_pack(self) -> None:
        if not self._pack:
            return
        content = b"".join(self._pack)
        key = layout.pack_object(self._system, self._backup, self._pack_number)
        self._pack, self._pack_bytes, self._pack_number = [], 0, self._pack_number + 1
        self._await_uploads(UPLOADS - 1)
        self.sent += len(content)
        self._uploads.append(self._uploader.submit(self._repository.store.create, key, content))

    def _await_uploads(self, left: int) -> None:
        """Wait until at most so many are on their way. Raises what the store said against one."""
        while len(self._uploads) > left:
            self._uploads.popleft().result()

    def _end_index_part(self) -> None:
        if not self._lines:
            return
        compressed, sha256 = compression.compress([line.encode("utf-8") for line in self._lines], self._level)
        self._lines, self._line_bytes = [], 0
        self.index.append(sha256)
        stored = self._repository.wrap(compressed)
        self.sent += len(stored)
        self._repository.store.create(layout.index_object(self._system, self._backup, len(self.index)), stored)


class Files:
    """Turns the pieces of one file after the other into frames."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._member: Member | None = None
        self._frames: list[Frame] = []
        self._pieces: list[bytes | memoryview] = []
        self._waiting = 0

    def begin(self, member: Member) -> None:
        self.end()
        self._member = member

    def add(self, data: bytes | memoryview) -> None:
        while data:
            part = data[: FRAME_BYTES - self._waiting]
            self._pieces.append(part)
            self._waiting += len(part)
            data = data[len(part) :]
            if self._waiting == FRAME_BYTES:
                self._flush()

    def end(self) -> None:
        if self._member is not None:
            self._flush()
            self._writer.member(self._member, self._frames)
        self._member, self._frames = None, []

    def _flush(self) -> None:
        if self._waiting:
            self._writer.frame(b"".join(self._pieces), self._frames)
        self._pieces, self._waiting = [], 0
