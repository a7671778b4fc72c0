# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A base backup as PostgreSQL sends it: the replication command BASE_BACKUP through libpq, without a file in between.

Protocol: https://www.postgresql.org/docs/15/protocol-replication.html (BASE_BACKUP), unchanged in 17.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Tablespace
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config

# A server that sends nothing for so long (throttled ones send every second) is gone.
SILENCE_SECONDS = 600


@dataclass(frozen=True)
class Archive:
    """A new tar archive begins: that of a tablespace, or with `oid` None of the data directory."""

    oid: int | None


@dataclass(frozen=True)
class Data:
    """More bytes of the archive, or of the manifest."""

    content: memoryview
    manifest: bool


class BaseBackupStream:
    """One running BASE_BACKUP. Closing it, or dying, ends the backup on the server.

    Attributes:
        system: system identifier that the server names.
        timeline: at the start.
        start_lsn: at the start.
        stop_lsn: once `events` is exhausted.
        tablespaces: outside the data directory.
        total: estimated bytes.
    """

    def __init__(self, config: Config, *, label: str, fast: bool) -> None:
        """Connect and begin; the server does a checkpoint first.

        Args:
            config: of the instance.
            label: shows in `backup_label`.
            fast: checkpoint at once; otherwise spread as usual, which can take minutes.

        Raises:
            OperationFailed: the server refused.
        """
        self._pq = _library()
        self._notices: list[str] = []
        self._connection = self._connect(config)
        try:
            identity = self._rows("IDENTIFY_SYSTEM")
            self.system = int(identity[0][0] or 0)
            options = [
                f"LABEL '{label}'",
                "PROGRESS",
                f"CHECKPOINT '{'fast' if fast else 'spread'}'",
                "WAIT false",
                "MANIFEST 'yes'",
                "MANIFEST_CHECKSUMS 'CRC32C'",
            ]
            if config.backup.max_rate_kb:
                options.append(f"MAX_RATE {config.backup.max_rate_kb}")
            self._connection.send_query(f"BASE_BACKUP ({', '.join(options)})".encode())
            start = self._result()
            self.start_lsn = Lsn.parse(_value(start, 0, 0))
            self.timeline = int(_value(start, 0, 1))
            self.stop_lsn = self.start_lsn
            spaces = self._result()
            rows = [[spaces.get_value(row, column) for column in range(3)] for row in range(spaces.ntuples)]
            self.total = sum(int(row[2] or 0) * 1024 for row in rows)
            self.tablespaces = tuple(
                Tablespace(int(row[0]), row[1].decode("utf-8", "surrogateescape"), int(row[2] or 0) * 1024)
                for row in rows
                if row[0] is not None and row[1] is not None
            )
        except BaseException:
            self.close()
            raise

    def events(self) -> Iterator[Archive | Data]:
        """Everything that is sent, in order.

        Raises:
            OperationFailed: the server ended the backup, or a page has a wrong checksum (the message names it).
        """
        self._result()  # COPY begins
        oids = {space.location: space.oid for space in self.tablespaces}
        manifest = False
        for message in self._messages():
            kind = bytes(message[:1])
            if kind == b"d":
                yield Data(message[1:], manifest)
            elif kind == b"n":
                _oid, location, _rest = bytes(message[1:]).split(b"\0", 2)
                yield Archive(oids[location.decode("utf-8", "surrogateescape")] if location else None)
            elif kind == b"m":
                manifest = True
        self.stop_lsn = Lsn.parse(_value(self._result(), 0, 0))
        # Pages with a wrong checksum are reported as an error behind the end position.
        while (rest := self._connection.get_result()) is not None:
            if rest.status == self._pq.ExecStatus.FATAL_ERROR:
                raise self._failure(rest.error_message)

    def close(self) -> None:
        self._connection.finish()

    def _connect(self, config: Config) -> Any:
        words = {
            "host": config.socket_directory,
            "port": config.port,
            "user": config.user,
            "replication": "true",
            "application_name": "dbops backup",
            "connect_timeout": 10,
        }
        escaped = {name: str(value).replace("\\", "\\\\").replace("'", "\\'") for name, value in words.items()}
        text = " ".join(f"{name}='{value}'" for name, value in escaped.items())
        connection = self._pq.PGconn.connect(text.encode())
        if connection.status != self._pq.ConnStatus.OK:
            raise self._failure(connection.error_message)
        connection.notice_handler = self._notice
        return connection

    def _notice(self, result: Any) -> None:
        if len(self._notices) < 20:
            self._notices.append(_text(result.error_message))

    def _rows(self, command: str) -> list[list[str | None]]:
        result = self._connection.exec_(command.encode())
        if result.status != self._pq.ExecStatus.TUPLES_OK:
            raise self._failure(result.error_message)
        return [
            [
                (value.decode() if (value := result.get_value(row, column)) is not None else None)
                for column in range(result.nfields)
            ]
            for row in range(result.ntuples)
        ]

    def _result(self) -> Any:
        result = self._connection.get_result()
        if result is None or result.status not in (self._pq.ExecStatus.TUPLES_OK, self._pq.ExecStatus.COPY_OUT):
            raise self._failure(result.error_message if result is not None else self._connection.error_message)
        return result

    def _messages(self) -> Iterator[memoryview]:
        connection = self._connection
        while True:
            try:
                size, content = connection.get_copy_data(1)
            except Exception as error:
                raise self._failure(str(error).encode()) from None
            if size > 0:
                yield memoryview(content)
            elif size < 0:
                return
            else:
                readable, _writable, _broken = select.select([connection.socket], [], [], SILENCE_SECONDS)
                if not readable:
                    raise self._failure(f"nothing was sent for {SILENCE_SECONDS} s".encode())
                try:
                    connection.consume_input()
                except Exception as error:
                    raise self._failure(str(error).encode()) from None

    def _failure(self, message: bytes | None) -> OperationFailed:
        said = "; ".join([_text(message or b"no reason given"), *self._notices])
        return OperationFailed(f"The server ended the base backup: {said}", notices=list(self._notices))


def _library() -> Any:
    try:
        from psycopg import pq
    except ImportError as error:
        raise OperationFailed(f"A base backup needs {error.name}", remedy="Install python3-psycopg.") from error
    return pq


def _value(result: Any, row: int, column: int) -> str:
    return _text(result.get_value(row, column))


def _text(value: bytes) -> str:
    return " ".join(value.decode("utf-8", "replace").split())
