# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a clone out in a process of its own, which outlives the SSH session and the job that started it.

One step after the other, each noted in the marker: remove remains, make the slot, pg_basebackup, pg_verifybackup, write
the standby's settings, rename into place. A failure removes what was copied, drops the slot if this clone made it, and
notes why. A kill leaves the marker as it is, and the next run finds by it what was going on.
"""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import contextlib
import dataclasses
import grp
import os
import pwd
import selectors
import shutil
import signal
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from ansible_collections.dbops.fleet.plugins.module_utils.clone import observe
from ansible_collections.dbops.fleet.plugins.module_utils.clone.explain import copy_failure
from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import (
    CloneRequest,
    DirectoryState,
    Failure,
    Marker,
    Target,
)
from ansible_collections.dbops.fleet.plugins.module_utils.clone.plan import FINISH, Plan, megabytes
from ansible_collections.dbops.fleet.plugins.module_utils.clone.progress import parse_line
from ansible_collections.dbops.fleet.plugins.module_utils.clone.settings import (
    auto_conf,
    copy_conninfo,
    standby_settings,
    tablespace_mapping,
)
from ansible_collections.dbops.fleet.plugins.module_utils.clone.source import create_slot, drop_slot
from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed

_STARTED = b"started"
_KEPT_MESSAGES = 30


def start(request: CloneRequest, plan: Plan, earlier: Marker | None) -> None:
    """Start the worker and return when its marker is on disk.

    Args:
        earlier: the marker of the unfinished clone that this one takes over, if there is one.

    Raises:
        OperationFailed: it could not even write its marker; nothing has been changed.
    """
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        _detach(request, plan, earlier, tell)
    os.close(tell)
    os.waitpid(child, 0)
    with os.fdopen(ready, "rb") as pipe:
        said = pipe.read()
    if said != _STARTED:
        raise OperationFailed(
            f"The clone could not be started: {said.decode(errors='replace') or 'its process ended at once'}",
            remedy="Nothing was changed. Correct the cause and run again.",
        )


def end_orphans(directory: str) -> None:
    """End what a killed worker has left running, so that it neither writes into our directory nor holds the slot.

    pg_basebackup itself dies with the worker, but its own child, which receives the WAL, does not.
    """
    while pids := observe.processes_writing_to(directory):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _detach(request: CloneRequest, plan: Plan, earlier: Marker | None, tell: int) -> NoReturn:
    """In the child: leave session, terminal and open files behind, then work. Never returns to the caller's code."""
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.chdir("/")
        os.umask(0o077)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        # Everything else that the module had open, the lock and the SSH session's pipes among it.
        os.dup2(tell, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        try:
            worker = Worker(request, plan, earlier)
        except OSError as error:
            os.write(3, f"{error.filename or request.marker_path}: {error.strerror}".encode())
            os._exit(1)
        os.write(3, _STARTED)
        os.close(3)
        worker.run()
    finally:
        os._exit(0)


class Worker:
    """One clone. Constructing it claims the place by writing the marker."""

    def __init__(self, request: CloneRequest, plan: Plan, earlier: Marker | None) -> None:
        self.request = request
        self.plan = plan
        self.earlier = earlier
        parent = os.path.dirname(request.data_directory)
        # As Debian has it for /var/lib/postgresql/<version>.
        self._make_directory(parent, 0o755)
        now = time.time()
        carried_on = earlier if plan.action == FINISH else None
        self.marker = Marker(
            operation_id=uuid.uuid4().hex,
            request=request,
            directory=plan.directory,
            phase="preparing",
            worker=observe.this_process(),
            system_identifier=plan.system_identifier,
            started_at=now,
            updated_at=now,
            copied=carried_on is not None,
            bytes_done=carried_on.bytes_done if carried_on else 0,
            bytes_total=plan.bytes_total,
            slot_created=plan.create_slot or (carried_on is not None and carried_on.slot_created),
            tablespace_directories=(
                carried_on.tablespace_directories if carried_on else tuple(plan.tablespaces.values())
            ),
            kept_directory=carried_on.kept_directory if carried_on else None,
        )
        observe.write_marker(self.marker, durable=True)

    def run(self) -> None:
        """All steps; every failure ends in the marker."""
        try:
            if self.plan.action != FINISH:
                self._prepare()
                self._copy()
            if self.request.verify:
                self._note(phase="verifying")
                self._verify()
            self._note(phase="placing")
            self._configure()
            self._place()
            self._note(phase="finished", finished_at=time.time())
        except FleetError as error:
            self._fail(Failure(error.message, error.remedy or "Correct the cause and run again."))
        except Exception as error:  # the last resort: whatever it was, the operator must find it in the marker
            self._fail(Failure(f"{type(error).__name__}: {error}", "Correct the cause and run again."))

    # Before the copy

    def _prepare(self) -> None:
        end_orphans(self.plan.directory)
        self._remove_remains()
        if self.plan.create_slot and self.request.slot is not None:
            create_slot(self.request.source, self.request.slot, renew=self.plan.renew_slot)
        for directory in (self.plan.directory, *self.plan.tablespaces.values()):
            self._make_directory(directory, 0o700)
            self._hand_over(directory)
            os.chmod(directory, 0o700)

    def _remove_remains(self) -> None:
        """Remove what an unfinished clone of ours has left: the plan has found that it is ours."""
        if not self.plan.remains:
            return
        if self.plan.in_place:
            _empty(self.plan.directory)
        elif os.path.lexists(self.plan.directory):
            shutil.rmtree(self.plan.directory)
        for directory in self.earlier.tablespace_directories if self.earlier is not None else ():
            for left in observe.tablespace_remains(directory, self.earlier):
                shutil.rmtree(left)

    # The copy

    def _copy(self) -> None:
        messages: deque[str] = deque(maxlen=_KEPT_MESSAGES)
        self._note(phase="copying")
        with subprocess.Popen(
            [*self._as_owner(), *self._copy_command()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self._environment(),
        ) as process:
            stalled = self._watch(process, messages)
        if stalled:
            source = self.request.source.host
            raise OperationFailed(
                f"{source} sent nothing for {self.request.stall_timeout_seconds} s, and the copy was given up",
                remedy=f"See whether {source} is frozen or cut off; then run again.",
            )
        if process.returncode != 0:
            ended = (
                f"exit code {process.returncode}"
                if process.returncode > 0
                else f"killed by signal {-process.returncode}"
            )
            failure = copy_failure(list(messages), ended, self.request, self._disk())
            raise OperationFailed(failure.message, remedy=failure.remedy)
        self._note(copied=True)

    def _watch(self, process: subprocess.Popen[bytes], messages: deque[str]) -> bool:
        """Follow its standard error to the end. True if it was killed because nothing came for too long."""
        last = time.monotonic()
        # How long a spread checkpoint and the flush at the end take in silence is not the source's fault.
        patient = self.request.checkpoint == "spread"
        for line in _lines(cast(IO[bytes], process.stderr).fileno()):
            if line is None:
                if not patient and time.monotonic() - last > self.request.stall_timeout_seconds:
                    process.kill()
                    return True
                continue
            last = time.monotonic()
            copied = parse_line(line)
            if copied is None:
                messages.append(line)
                patient = "syncing data to disk" in line or (patient and "checkpoint completed" not in line)
            else:
                self._note_progress(copied.bytes_done, copied.bytes_total)
        return False

    def _note_progress(self, done: int, total: int) -> None:
        started = self.marker.copy_started_at or (time.time() if done else None)
        # A full disk fails the copy, not the noting of its progress.
        with contextlib.suppress(OSError):
            self._note(durable=False, bytes_done=done, bytes_total=max(done, total), copy_started_at=started)

    def _copy_command(self) -> list[str]:
        request = self.request
        command = [
            os.path.join(request.bin_directory, "pg_basebackup"),
            "--pgdata",
            self.plan.directory,
            "--format=plain",
            "--wal-method=stream",
            f"--checkpoint={request.checkpoint}",
            "--progress",
            "--verbose",
            "--no-password",
            # What a failed copy leaves is removed here, after the room that is left was measured.
            "--no-clean",
            f"--dbname={copy_conninfo(request.source, request.member)}",
        ]
        if request.slot is not None:
            command.append(f"--slot={request.slot}")
        if request.max_rate is not None:
            command.append(f"--max-rate={request.max_rate}")
        for location, directory in self.plan.tablespaces.items():
            if location != directory:
                command.append(f"--tablespace-mapping={tablespace_mapping(location, directory)}")
        return command

    def _disk(self) -> str:
        """What there is to say about room when it ran out."""
        nowhere = Target(DirectoryState(), DirectoryState())
        places = observe.read_places(self.plan.directory, self.plan.tablespaces.values(), nowhere, False)
        room = "; ".join(
            f"{place.mount_point} (for {directory}) has {megabytes(place.free_bytes)} left"
            for directory, place in places.items()
        )
        return (
            f"{megabytes(self.marker.bytes_done)} of about {megabytes(self.marker.bytes_total)} had been copied; "
            f"{room} before the copy was removed"
        )

    # After the copy

    def _verify(self) -> None:
        done = subprocess.run(
            [
                *self._as_owner(),
                os.path.join(self.request.bin_directory, "pg_verifybackup"),
                "--quiet",
                self.plan.directory,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._environment(),
            check=False,
        )
        if done.returncode != 0:
            # Not the copy that the source made: it must not be carried on.
            self._note(copied=False)
            said = "; ".join(done.stdout.strip().splitlines()[:3])
            raise OperationFailed(
                f"The copy differs from what {self.request.source.host} sent: {said}",
                remedy="Suspect this host's disk or memory, see its kernel log, then run again.",
            )

    def _configure(self) -> None:
        directory = Path(self.plan.directory)
        found = observe.read_system_identifier(str(directory), self.request.bin_directory)
        if found != self.plan.system_identifier:
            self._note(copied=False)
            raise OperationFailed(
                f"The copy has the system identifier {found}, not {self.plan.system_identifier}",
                remedy="Something else answers at the source's address now: check it, then run again.",
            )
        own = directory / "postgresql.auto.conf"
        text = own.read_text() if own.exists() else ""
        self._write(own, auto_conf(text, standby_settings(self.request)))
        self._write(directory / "standby.signal", "")
        (directory / "recovery.signal").unlink(missing_ok=True)
        observe.sync_directory(str(directory))

    def _place(self) -> None:
        """Rename the copy into place; the target is absent, empty, or to be kept under another name."""
        if self.plan.in_place:
            return
        data = self.request.data_directory
        if self.request.replace and os.path.isdir(data) and os.listdir(data):
            kept = f"{data}.old-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
            self._note(kept_directory=kept)
            os.rename(data, kept)
        # rename() replaces an empty directory and fails on any other.
        os.rename(self.plan.directory, data)
        observe.sync_directory(os.path.dirname(data))

    # When it fails

    def _fail(self, failure: Failure) -> None:
        message, remedy = failure.message, failure.remedy
        changes: dict[str, Any] = {}
        if self.marker.copied:
            remedy += " The complete copy is kept and carried on then."
        else:
            try:
                self._remove_copy()
                changes = {"directory": "", "tablespace_directories": ()}
                message += "; what was copied has been removed"
            except OSError as error:
                message += f"; what was copied could not be removed yet ({error})"
            if self.marker.slot_created and self.request.slot is not None:
                if drop_slot(self.request.source, self.request.slot):
                    changes["slot_created"] = False
                else:
                    where = self.request.source.host
                    remedy += (
                        f" The replication slot {self.request.slot} could not be dropped on {where}: "
                        "drop it there if no clone follows, because it keeps WAL."
                    )
        self._note(phase="failed", failure=Failure(message, remedy), **changes)

    def _remove_copy(self) -> None:
        end_orphans(self.plan.directory)
        if self.plan.in_place:
            _empty(self.plan.directory)
        elif os.path.lexists(self.plan.directory):
            shutil.rmtree(self.plan.directory)
        for directory in self.marker.tablespace_directories:
            for left in observe.tablespace_remains(directory, self.marker):
                shutil.rmtree(left)

    # Helpers

    def _note(self, *, durable: bool = True, **changes: Any) -> None:
        self.marker = dataclasses.replace(self.marker, updated_at=time.time(), **changes)
        observe.write_marker(self.marker, durable=durable)

    def _write(self, path: Path, text: str) -> None:
        """A small file of the new data directory, on disk when this returns."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self._hand_over(str(path))

    def _make_directory(self, directory: str, mode: int) -> None:
        """Make a directory and its missing parents, all of the data directory's owner."""
        if os.path.isdir(directory):
            return
        self._make_directory(os.path.dirname(directory), 0o755)
        os.mkdir(directory, 0o700)
        self._hand_over(directory)
        os.chmod(directory, mode)
        observe.sync_directory(os.path.dirname(directory))

    def _hand_over(self, path: str) -> None:
        owner, group = pwd.getpwnam(self.request.owner).pw_uid, grp.getgrnam(self.request.group).gr_gid
        if os.geteuid() != owner:
            os.chown(path, owner, group)

    def _as_owner(self) -> list[str]:
        """Programs run as the owner of the data directory, and die with the worker."""
        user = () if os.geteuid() != 0 else (f"--reuid={self.request.owner}", f"--regid={self.request.group}")
        groups = ("--init-groups", "--inh-caps=-all") if user else ()
        return ["setpriv", *user, *groups, "--pdeathsig=KILL", "--"]

    def _environment(self) -> dict[str, str]:
        """Nothing of the caller's: a PGHOST or somebody else's home would lead libpq astray."""
        home = pwd.getpwnam(self.request.owner).pw_dir
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "LC_ALL": "C"}


def _empty(directory: str) -> None:
    """Remove all that is in a directory, but not the directory, which is a mount point."""
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _lines(descriptor: int) -> Iterator[str | None]:
    """The lines of a pipe until its end; None for every second without one. Carriage returns end lines too."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=1.0):
                yield None
                continue
            read = os.read(descriptor, 65536)
            *lines, rest = (rest + read).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                if line.strip():
                    yield line.decode(errors="replace").rstrip()
            if not read:
                if rest.strip():
                    yield rest.decode(errors="replace").rstrip()
                return
