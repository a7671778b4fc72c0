# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running pg_dump, pg_dumpall and pg_restore with their content in a pipe: nothing is staged on a disk."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, cast

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import conninfo
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.quoting import identifier
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config

READ_BYTES = 1 << 20
# Characters of what a program said that a message repeats.
SAID_CHARACTERS = 1500


@dataclass(frozen=True)
class Place:
    """A server that is reached over its socket.

    Attributes:
        bin_directory: of PostgreSQL's programs.
        host: directory of the socket.
        port, user: as everywhere.
    """

    bin_directory: str
    host: str
    port: int
    user: str

    @classmethod
    def of(cls, config: Config) -> Place:
        """The instance on this host."""
        return cls(config.bin_directory, config.socket_directory, config.port, config.user)

    def conninfo(self, database: str) -> str:
        """Quoted, because these programs take a name with `=` in it for a connection string."""
        return conninfo.build(
            {
                "host": self.host,
                "port": self.port,
                "user": self.user,
                "dbname": database,
                "application_name": "dbops dump",
            }
        )


def dump_database(place: Place, database: str, *, schema: str, lock_wait_seconds: float) -> Iterator[bytes]:
    """A database in the custom format, uncompressed: the repository compresses it, and equal parts stay equal.

    Args:
        place: of the server.
        database: its name.
        schema: only this one, without publications and subscriptions; empty for everything.
        lock_wait_seconds: how long to wait for a table that somebody has locked.
    """
    command = [
        f"{place.bin_directory}/pg_dump",
        "--format=custom",
        "--compress=0",
        "--no-password",
        f"--lock-wait-timeout={int(lock_wait_seconds * 1000)}",
    ]
    if schema:
        command += [f"--schema={identifier(schema)}", "--strict-names", "--no-publications", "--no-subscriptions"]
    return _output([*command, f"--dbname={place.conninfo(database)}"], f"pg_dump of {database}")


def dump_globals(place: Place, *, passwords: bool) -> Iterator[bytes]:
    """Roles and tablespaces as SQL."""
    command = [f"{place.bin_directory}/pg_dumpall", "--globals-only", "--no-password"]
    if not passwords:
        command.append("--no-role-passwords")
    return _output([*command, f"--dbname={place.conninfo('postgres')}"], "pg_dumpall")


def load(place: Place, database: str, content: Iterable[bytes], *, one_transaction: bool, owners: bool) -> None:
    """Load a dump into a database; it stops at the first error.

    Args:
        place: of the server.
        database: to load into.
        content: of the dump.
        one_transaction: all of it or nothing.
        owners: set owners and privileges as they were.

    Raises:
        OperationFailed: pg_restore failed, or the content did.
    """
    command = [f"{place.bin_directory}/pg_restore", "--exit-on-error", "--no-password"]
    command += ["--single-transaction"] if one_transaction else []
    command += [] if owners else ["--no-owner", "--no-privileges"]
    _input([*command, f"--dbname={place.conninfo(database)}"], content, f"pg_restore into {database}")


def read_through(bin_directory: str, content: Iterable[bytes]) -> None:
    """Have pg_restore read a dump to its end, into nothing. Raises OperationFailed when it cannot."""
    _input([f"{bin_directory}/pg_restore", "--file=/dev/null"], content, "pg_restore")


def _output(command: list[str], what: str) -> Iterator[bytes]:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=_environment()
        )
        try:
            output = cast("IO[bytes]", process.stdout)
            while piece := output.read(READ_BYTES):
                yield piece
            process.wait()
        finally:
            _end(process)
        if process.returncode:
            raise _failure(what, said)


def _input(command: list[str], content: Iterable[bytes], what: str) -> None:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, env=_environment()
        )
        try:
            to_it = cast("IO[bytes]", process.stdin)
            try:
                for piece in content:
                    to_it.write(piece)
                to_it.close()
            except BrokenPipeError:
                pass  # it ended before its input did, and says below why
            process.wait()
        finally:
            _end(process)
        if process.returncode:
            raise _failure(what, said)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Where we are on our way out because something else failed: the content must not look complete to it."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stdin):
        if stream is not None and not stream.closed:
            try:
                stream.close()
            except BrokenPipeError:
                continue


def _environment() -> dict[str, str]:
    return {"LC_ALL": "C", "PATH": os.environ.get("PATH", "/usr/bin:/bin")}


def _failure(what: str, said: IO[bytes]) -> OperationFailed:
    said.seek(0)
    text = " ".join(said.read().decode("utf-8", "replace").split())
    return OperationFailed(f"{what} failed: {text[-SAID_CHARACTERS:]}", remedy=_remedy(text))


def _remedy(text: str) -> str | None:
    # pg_dump waits with statement_timeout, which is off for everything else that it does.
    if "due to statement timeout" in text and "LOCK TABLE" in text:
        return "Somebody has locked a table; wait for that, or allow a longer wait for locks."
    if "conflict with recovery" in text:
        return "Dump from the primary, or raise max_standby_streaming_delay of this standby."
    if "role " in text and "does not exist" in text:
        return "Make the role first (the globals of the dump have it), or load without owners and privileges."
    return None
