# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of a pooler that run and that nobody named, as the sockets of the host tell."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Endpoint
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.files import unnamed_processes


@contextlib.contextmanager
def listening(root: Path, *names: str) -> Iterator[None]:
    with contextlib.ExitStack() as sockets:
        for name in names:
            (root / name).mkdir(parents=True)
            listener = sockets.enter_context(socket.socket(socket.AF_UNIX))
            # The path of a socket has at most 107 characters.
            here = os.open(root / name, os.O_RDONLY)
            sockets.callback(os.close, here)
            listener.bind(f"/proc/self/fd/{here}/.s.PGSQL.6432")
            listener.listen()
        yield


def endpoint(root: Path, name: str, port: int = 6432) -> Endpoint:
    return Endpoint(name, str(root / name), port)


def test_a_process_of_an_earlier_larger_number_is_seen(tmp_path: Path) -> None:
    with listening(tmp_path, "run/pgbouncer-1", "run/pgbouncer-2", "run/pgbouncer-3"):
        named = [endpoint(tmp_path, "run/pgbouncer-1"), endpoint(tmp_path, "run/pgbouncer-2")]
        assert unnamed_processes(named, tmp_path) == [str(tmp_path / "run/pgbouncer-3/.s.PGSQL.6432")]
        assert unnamed_processes([*named, endpoint(tmp_path, "run/pgbouncer-3")], tmp_path) == []
        assert unnamed_processes([endpoint(tmp_path, "run/pgbouncer-1", 6433)], tmp_path) == []
        assert unnamed_processes([Endpoint("far", "10.0.0.9", 6432)], tmp_path) == []


def test_a_single_process_that_went_on_when_several_came_is_seen(tmp_path: Path) -> None:
    with listening(tmp_path, "var/run/postgresql", "run/pgbouncer-1"):
        named = [endpoint(tmp_path, "run/pgbouncer-1")]
        assert unnamed_processes(named, tmp_path) == [str(tmp_path / "var/run/postgresql/.s.PGSQL.6432")]


def test_the_file_that_a_killed_process_left_counts_for_nothing(tmp_path: Path) -> None:
    with listening(tmp_path, "run/pgbouncer-1", "run/pgbouncer-2"):
        pass
    assert unnamed_processes([endpoint(tmp_path, "run/pgbouncer-1")], tmp_path) == []
