# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore drill: a backup is only worth what a restore of it has shown."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.repository.catalog import Verification
from ansible_collections.dbops.fleet.plugins.module_utils.repository.config import Config
from ansible_collections.dbops.fleet.plugins.module_utils.repository.lock import only_one
from ansible_collections.dbops.fleet.plugins.module_utils.repository.maintain import drill_place
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore import run
from ansible_collections.dbops.fleet.plugins.module_utils.repository.restore.replay import PrivateServer
from ansible_collections.dbops.fleet.plugins.module_utils.repository.shelf import Shelf
from ansible_collections.dbops.fleet.plugins.module_utils.repository.targets import Target

# Of the copy while it is checked. Nothing of it can reach the repository or the network.
_SETTINGS = {
    "listen_addresses": "",
    "archive_mode": "off",
    "ssl": "off",
    "logging_collector": "off",
    "autovacuum": "off",
    "primary_conninfo": "",
    # pg_amcheck makes its extension in the copy, and no standby will confirm that.
    "synchronous_standby_names": "",
}


@dataclass(frozen=True)
class Check:
    """One of the user's own checks.

    Attributes:
        database: to run it in.
        query: one row with one column; anything but false, null or an empty result is good.
    """

    database: str
    query: str


def drill(
    config: Config,
    config_file: str,
    installed: str,
    shelf: Shelf,
    *,
    directory: Path,
    target: Target,
    checks: Sequence[Check],
) -> Verification:
    """Restore into a scratch directory, replay, check everything, remove it, and record what was measured.

    Args:
        config, config_file, installed: of the engine.
        shelf: to restore from.
        directory: scratch place with room for the cluster; a directory inside it is made and removed.
        target: what to restore; without a backup's id the newest one.
        checks: the user's own.

    Raises:
        Refused: the target cannot be reached, the directory is not fit, or another drill of this instance is running.
            Nothing is recorded: no backup was tried.
    """
    tried = target.backup or _newest(shelf)
    started = time.time()
    figures: dict[str, float] = {}
    with only_one(config, "drill"), drill_place.scratch(directory) as scratch:
        data = scratch / drill_place.DATA
        mapping = _tablespaces(shelf, tried, scratch)
        request = run.Request(target, data, "scratch", mapping)
        tried = run.plan(shelf, request).choice.backup.id
        try:
            report = run.restore(
                config, config_file, installed, shelf, request, lambda path: _verify_files(config, path)
            )
            figures = _figures(report)
            message = _check_content(config, data, checks)
            good = True
        except FleetError as error:
            message, good = str(error), False
        shutil.rmtree(data, ignore_errors=True)
    figures["rto_seconds"] = round(time.time() - started, 3)
    verification = Verification(tried, "drill", time.time(), good, message, figures)
    shelf.record(verification)
    return verification


def _newest(shelf: Shelf) -> str:
    listed = shelf.listed()
    if not listed:
        raise Refused("The repository has no backup to restore", remedy="Take one with `dbops backup`.")
    return listed[-1].backup.id


def _tablespaces(shelf: Shelf, backup: str, scratch: Path) -> Mapping[str, str]:
    found = [item.backup for item in shelf.listed() if item.backup.id == backup]
    return {str(space.oid): str(scratch / f"tablespace-{space.oid}") for one in found for space in one.tablespaces}


def _figures(report: Mapping[str, Any]) -> dict[str, float]:
    figures = {name: float(report[name]) for name in ("copy_seconds", "replay_seconds", "size", "fetched")}
    if report["last_commit_age_seconds"] is not None:
        figures["last_commit_age_seconds"] = float(report["last_commit_age_seconds"])
    return figures


def _verify_files(config: Config, data: Path) -> None:
    """PostgreSQL's own judgement of the files, by the manifest that it sent with them."""
    marker = ["--ignore", "dbops-restore.json"]
    _run([f"{config.bin_directory}/pg_verifybackup", "--no-parse-wal", *marker, str(data)], "pg_verifybackup")


def _check_content(config: Config, data: Path, checks: Sequence[Check]) -> str:
    with tempfile.TemporaryDirectory(prefix="dbops-drill-") as private:
        server = PrivateServer(config, data, Path(private), _SETTINGS)
        with server:
            server.await_sessions()
            options = ["--host", private, "--port", str(config.port), "--username", config.user, "--no-password"]
            amcheck = [
                f"{config.bin_directory}/pg_amcheck",
                *options,
                "--all",
                "--install-missing",
                "--no-dependent-toast",
            ]
            _run(amcheck, "pg_amcheck")
            for check in checks:
                _ask(private, config, check)
            server.stop()
    return f"restored, replayed, and passed pg_verifybackup, pg_amcheck and {len(checks)} checks of rows"


def _ask(socket_directory: str, config: Config, check: Check) -> None:
    import psycopg

    try:
        with psycopg.connect(
            host=socket_directory, port=config.port, user=config.user, dbname=check.database, autocommit=True
        ) as connection:
            row = connection.execute(check.query.encode()).fetchone()
    except psycopg.Error as error:
        raise OperationFailed(f"The check {check.query!r} in {check.database} failed: {error}") from None
    if row is None or row[0] is None or row[0] is False:
        raise OperationFailed(f"The check {check.query!r} in {check.database} is not true of the restored copy")


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
    )
    if done.returncode:
        raise OperationFailed(f"{name} found: {' '.join((done.stderr + done.stdout).split())[:1000]}")
