# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of an operation: one JSON line per event, on disk before the next act begins.

A switchover that is killed leaves nothing but this file and the live state; both together decide what a rerun does.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Events of a line. "begin"/"done"/"failed" and "undo"/"undone" belong to a step; "start", "resume", "note" and "end" do
# not. `start` carries the request, `end` the end state.
EVENTS = ("start", "resume", "begin", "done", "failed", "undo", "undone", "note", "end")


@dataclass(frozen=True)
class Entry:
    """One line of a journal.

    Attributes:
        seq: 1, 2, ... without holes.
        time: seconds since the epoch.
        event: one of EVENTS.
        step: name of the step, None where the event belongs to none.
        data: JSON-able values.
    """

    seq: int
    time: float
    event: str
    step: str | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def to_line(self) -> str:
        """The entry as one line with its newline."""
        values = {
            "seq": self.seq,
            "time": round(self.time, 6),
            "event": self.event,
            "step": self.step,
            "data": self.data,
        }
        return json.dumps(values, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Entry:
        """Raises ValueError for a line that is no entry."""
        values = json.loads(line)
        try:
            return cls(values["seq"], values["time"], values["event"], values["step"], values["data"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a journal line: {line!r}") from error


@dataclass(frozen=True)
class Progress:
    """What a journal says about how far its operation got. Pure: made from entries alone.

    Attributes:
        request: what was asked for, as the first line has it; empty for an empty journal.
        begun: steps that were begun, in order; a step whose undoing was finished is no longer among them.
        done: the ones of these that were finished.
        state: everything that finished steps left for later ones.
        end: data of the last line where the operation ended; None while it did not.
    """

    request: dict[str, Any]
    begun: tuple[str, ...]
    done: frozenset[str]
    state: dict[str, Any]
    end: dict[str, Any] | None

    @property
    def open(self) -> bool:
        """Whether a rerun has to go on with it."""
        return self.end is None or self.end.get("state") == "needs_operator"

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Progress:
        """Read the progress from a journal's entries."""
        request: dict[str, Any] = {}
        begun: list[str] = []
        done: set[str] = set()
        state: dict[str, Any] = {}
        end: dict[str, Any] | None = None
        for entry in entries:
            if entry.event == "start":
                request = entry.data
            elif entry.event == "begin" and entry.step:
                begun = [step for step in begun if step != entry.step] + [entry.step]
            elif entry.event == "done" and entry.step:
                done.add(entry.step)
                state.update(entry.data)
            elif entry.event == "resume":
                end = None
            elif entry.event == "undone" and entry.step:
                begun = [step for step in begun if step != entry.step]
                done.discard(entry.step)
            elif entry.event == "end":
                end = entry.data
        return cls(request, tuple(begun), frozenset(done), state, end)


class Journal:
    """A journal that is being written. Lines are appended whole; `sync` makes them survive a power loss.

    The line after a step and the line before the next one share one fsync: nothing is done between them.
    """

    def __init__(self, path: Path, entries: Iterable[Entry] = ()) -> None:
        self.path = path
        self.entries: list[Entry] = list(entries)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    @classmethod
    def create(cls, path: Path) -> Journal:
        """Start a journal; its directory is made, and the file's name is on disk when this returns.

        Raises:
            FileExistsError: there is one of this name already.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_directory(path.parent)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Go on with a journal. A last line that a crash cut short is cut off: it was never acted upon."""
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) != len(text):
            with path.open("r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
        return cls(path, parse(whole.decode()))

    def append(self, event: str, step: str | None = None, *, sync: bool = True, **data: Any) -> Entry:
        """Write one line.

        Args:
            event: one of EVENTS.
            step: the step it belongs to.
            sync: return only when this and all lines before it are on disk.
            data: JSON-able values.

        Raises:
            OSError: it could not be written, on a full disk for instance. Then nothing of it is in the file.
        """
        if event not in EVENTS:
            raise ValueError(f"no such journal event: {event}")
        entry = Entry(len(self.entries) + 1, time.time(), event, step, data)
        line = entry.to_line().encode()
        before = os.fstat(self._descriptor).st_size
        try:
            if os.write(self._descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fsync(self._descriptor)
        except OSError:
            # Half a line would make all that follow unreadable.
            os.ftruncate(self._descriptor, before)
            raise
        self.entries.append(entry)
        return entry

    def close(self) -> None:
        """Close the file; lines that were not synced are left to the kernel."""
        os.close(self._descriptor)


def parse(text: str) -> list[Entry]:
    """The entries of a journal's text; an unfinished last line is left out.

    Raises:
        ValueError: a finished line is no entry.
    """
    lines = text.splitlines(keepends=True)
    return [Entry.from_line(line) for line in lines if line.endswith("\n") and line.strip()]


def read(path: Path) -> list[Entry]:
    """The entries of a journal that may be growing."""
    return parse(path.read_text(encoding="utf-8"))


def journals(directory: Path) -> list[Path]:
    """Journals in a directory, oldest first (operation ids begin with the time)."""
    return sorted(directory.glob("*.jsonl")) if directory.is_dir() else []


def unfinished(directory: Path) -> Path | None:
    """The last journal of an operation that was really begun, if that has not ended or ended with a question."""
    for path in reversed(journals(directory)):
        progress = Progress.of(read(path))
        if progress.open:
            return path
        if progress.end is not None and progress.end.get("state") != "refused":
            return None
    return None


def sync_file(path: Path) -> None:
    """Make a file's content survive a power loss."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(directory: Path) -> None:
    """Make names that were added to or removed from a directory survive a power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
