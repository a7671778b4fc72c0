# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The old primary on its own host: its process, its control file, its signal file, and SQL as superuser."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import sync_directory
from ansible_collections.dbops.fleet.plugins.module_utils.failover.record_end import record_end
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_ports import (
    ControlState,
    LocalStatus,
    PortError,
    Position,
    Writer,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_remote import (
    configure_session,
    read_position,
)
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import session
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.control import ControlData
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn

if TYPE_CHECKING:
    import psycopg

# DBState of pg_control.h, as pg_controldata prints it. Position and meaning are the same in all versions from 9.5 on.
_STATES = (
    "starting up",
    "shut down",
    "shut down in recovery",
    "shutting down",
    "in crash recovery",
    "in archive recovery",
    "in production",
)
_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_RECORD = re.compile(r"len \(rec/tot\):\s*\d+/\s*(\d+),.*desc: CHECKPOINT_SHUTDOWN")

# Whether the server archives, and so switches segments when it stops; bytes left of the present one; where it stands.
_SEGMENT = """
    SELECT current_setting('archive_mode'), size - mod(pg_wal_lsn_diff(at, '0/0'), size)::bigint, at::text
      FROM pg_current_wal_insert_lsn() AS at, pg_size_bytes(current_setting('wal_segment_size')) AS size
"""
_FILL = "SELECT pg_logical_emit_message(true, 'dbops.fleet', repeat(' ', %s::int))"
_FILL_BYTES = 16 << 20

T = TypeVar("T")

# What a standby keeps of its time as a primary would hold write-ahead log for ever. A failover slot (PostgreSQL 17)
# cannot be made on a standby; one that is not synchronised is such a leftover, and in the way of its synchronisation.
STALE_SLOTS = """
    SELECT slot_name, pg_drop_replication_slot(slot_name) FROM pg_replication_slots AS slot
     WHERE NOT active AND pg_is_in_recovery()
       AND (slot_type = 'physical' AND slot_name = ANY (%s)
            OR (to_jsonb(slot) ->> 'failover')::bool AND NOT (to_jsonb(slot) ->> 'synced')::bool)"""


class LocalPrimary:
    """See `switchover_ports.LocalServer`."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._connection: psycopg.Connection[Any] | None = None
        self._senders: dict[int, str] = {}
        self._seen: tuple[bytes, ControlData] | None = None

    def open(self) -> None:
        """Open the session now rather than when it is needed."""
        self._sql(lambda connection: connection.execute("SELECT 1"))

    def _sql(self, work: Callable[[psycopg.Connection[Any]], T], timeout: float = 10.0) -> T:
        driver = session.require_psycopg()
        try:
            if self._connection is None or self._connection.closed:
                self._connection = session.connect_local(
                    self.instance.port, self.instance.socket_directory, statement_timeout=0
                )
            with session.deadline(self._connection, timeout):
                return work(self._connection)
        except (driver.Error, FleetError) as error:
            raise PortError(" ".join(str(error).split())) from error

    # Files and processes.

    def status(self) -> LocalStatus:
        """Asked of the process, the control file, and of the server where it answers."""
        control = self.control()
        running = self.instance.running
        recovery, timeline = None, control.timeline
        if running:
            try:
                position = self.position()
                recovery, timeline = position.in_recovery, max(position.timeline, timeline)
            except PortError:
                pass
        lock = self.instance.lock_file()
        stopping = running and lock is not None and lock.status == "stopping"
        return LocalStatus(running, recovery, timeline, control, self._signal_file.exists(), stopping)

    def control(self) -> ControlState:
        """The control file, read as bytes: the pause is shorter than it takes to start pg_controldata a few times.

        What decides ("shut down") is read again by pg_controldata, once, which checks the file's checksum.
        """
        raw = self._raw_control()
        state = _STATES[int.from_bytes(raw[16:20], "little")]
        checkpoint = int.from_bytes(raw[32:40], "little")
        timeline = int.from_bytes(raw[48:52], "little")
        if state == "shut down":
            checked = self._checked(raw)
            return ControlState(checked.state, checked.checkpoint_lsn, checked.timeline)
        return ControlState(state, Lsn(checkpoint), timeline)

    def _raw_control(self) -> bytes:
        return (self.instance.data_directory / "global" / "pg_control").read_bytes()

    def _checked(self, raw: bytes) -> ControlData:
        """What pg_controldata says; of a file that it has read already, what it said then."""
        if self._seen is not None and self._seen[0] == raw:
            return self._seen[1]
        try:
            found = self.instance.control_data()
        except FleetError as error:
            raise PortError(str(error)) from error
        if found is None:
            raise PortError(f"{self.instance.data_directory} has no control file any more")
        self._seen = (raw, found)
        return found

    @property
    def _signal_file(self) -> Path:
        return self.instance.data_directory / "standby.signal"

    def write_standby_signal(self) -> None:
        """Make standby.signal, on disk when this returns."""
        owner = self.instance.data_directory.stat()
        descriptor = os.open(self._signal_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(self.instance.data_directory)

    def remove_standby_signal(self) -> None:
        """Remove standby.signal, on disk when this returns."""
        self._signal_file.unlink(missing_ok=True)
        sync_directory(self.instance.data_directory)

    def stop(self, mode: str) -> None:
        """Signal the postmaster. pg_ctl and systemctl would look only every 100 ms whether it is done."""
        if mode == "fast":
            self._remember_senders()
        pid = self.instance.pid
        if pid is not None:
            os.kill(pid, _SIGNALS[mode])

    def _remember_senders(self) -> None:
        """Once the shutdown has begun there is no session that could be asked who is who."""
        try:
            rows = self._sql(lambda c: c.execute("SELECT pid, application_name FROM pg_stat_replication").fetchall())
            self._senders = dict(rows)
        except PortError:
            self._senders = {}

    def cut_off(self, names: Collection[str]) -> None:
        """By what was remembered at the stop: looking through all processes would cost clients a moment."""
        for pid, name in self._senders.items():
            if name in names:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    def terminate_senders(self, keep: str) -> int:
        """Of a server that shuts down: walsenders wait until their clients have confirmed all, which may be never."""
        postmaster = self.instance.pid
        if postmaster is None or (keep and keep not in self._senders.values()):
            return 0
        count = 0
        for pid in _walsenders(postmaster):
            if not keep or self._senders.get(pid, keep) != keep:
                os.kill(pid, signal.SIGTERM)
                count += 1
        return count

    def checkpoint_end(self, control: ControlState) -> Lsn:
        """From pg_waldump, which also checks the record."""
        command = [str(self.instance.binaries / "pg_waldump"), "--limit=1", f"--timeline={control.timeline}"]
        command += [f"--path={self.instance.data_directory / 'pg_wal'}", f"--start={control.checkpoint}"]
        done = subprocess.run(command, capture_output=True, text=True, env={"LC_ALL": "C"}, check=False)
        match = _RECORD.search(done.stdout)
        if match is None:
            raise PortError(f"no shutdown checkpoint at {control.checkpoint}: {(done.stdout + done.stderr).strip()}")
        return record_end(control.checkpoint, int(match[1]), self._checked(self._raw_control()).wal_segment_size)

    def start(self, timeout: float) -> None:
        """Through systemd where it has a unit; see `Instance.start`."""
        deadline = time.monotonic() + timeout
        try:
            start_server(self.instance, timeout)
        except FleetError as error:
            raise PortError(str(error)) from error
        while True:
            try:
                return self.open()
            except PortError as error:
                if time.monotonic() >= deadline:
                    raise PortError(f"it takes no sessions after {timeout:g} s: {error}") from error
            time.sleep(0.02)

    # SQL.

    def position(self) -> Position:
        """As in `switchover_remote.Remote`."""
        return self._sql(read_position, timeout=2.0)

    def checkpoint(self) -> None:
        """CHECKPOINT, however long it takes."""
        self._sql(lambda connection: connection.execute("CHECKPOINT"), timeout=3600.0)

    def fill_segment(self, leave: int) -> Lsn:
        """With messages that nobody reads; what commits is flushed and sent at once."""

        def fill(connection: psycopg.Connection[Any]) -> Lsn:
            while True:
                archives, left, end = connection.execute(_SEGMENT).fetchone() or ("off", 0, "0/0")
                if archives == "off" or left <= leave:
                    return Lsn.parse(end)
                connection.execute(_FILL, [min(left - leave, _FILL_BYTES)])

        return self._sql(fill, timeout=60.0)

    def writers(self) -> Sequence[Writer]:
        """Client sessions, other than this one, that have written something they have not committed."""
        query = """
            SELECT pid, usename, application_name, extract(epoch FROM clock_timestamp() - xact_start)::float8
              FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()"""
        rows = self._sql(lambda connection: connection.execute(query).fetchall(), timeout=2.0)
        return [Writer(pid, user or "", application or "", seconds or 0.0) for pid, user, application, seconds in rows]

    def terminate(self, pids: Sequence[int]) -> None:
        """pg_terminate_backend."""
        self._sql(
            lambda connection: connection.execute(
                "SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", (list(pids),)
            )
        )

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """ALTER SYSTEM and reload."""
        self._sql(lambda connection: configure_session(connection, settings))

    def promote(self, timeout: float) -> None:
        """pg_promote, and wait."""
        self._sql(lambda connection: connection.execute("SELECT pg_promote(true, %s)", (int(timeout),)), timeout + 5)

    def drop_slots(self, names: Sequence[str]) -> Sequence[str]:
        """Of these the physical ones, and failover slots that were its own as a primary."""
        rows = self._sql(lambda connection: connection.execute(STALE_SLOTS, (list(names),)).fetchall())
        return [row[0] for row in rows]


def start_server(instance: Instance, timeout: float) -> None:
    """Start an instance by its systemd unit, or with Debian's or PostgreSQL's own tool where there is no systemd.

    Raises:
        FleetError: it did not start; the message has what the tool said.
    """
    if instance.unit and Path("/run/systemd/system").is_dir():
        return instance.start(timeout=timeout)
    owner = instance.data_directory.stat()
    log = instance.data_directory.parent / f"{instance.data_directory.name}.log"
    if instance.config_directory:
        command = ["pg_ctlcluster", str(instance.version), instance.name, "start"]
    else:
        command = [str(instance.binaries / "pg_ctl"), "start", "--wait", f"--timeout={int(timeout)}"]
        command += [f"--pgdata={instance.data_directory}", f"--log={log}"]
    # A server may not run as root; output goes to the log, for the server inherits a pipe and would keep it open.
    identity: dict[str, Any] = {}
    if os.geteuid() == 0 and not instance.config_directory:
        identity = {
            "user": owner.st_uid,
            "group": owner.st_gid,
            "extra_groups": os.getgrouplist(_name(owner.st_uid), owner.st_gid),
        }
    environment = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,
        check=False,
        **identity,
    )
    if done.returncode:
        raise FleetError(f"{' '.join(command)} ended with {done.returncode}", remedy=f"Read {log}.")
    return None


def _name(uid: int) -> str:
    import pwd

    return pwd.getpwuid(uid).pw_name


def _walsenders(postmaster: int) -> list[int]:
    """The children of a postmaster that say they are walsenders."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            title = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == postmaster and b"walsender" in title:
            found.append(int(entry.name))
    return found
