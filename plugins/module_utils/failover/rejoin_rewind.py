# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs pg_rewind so that what an interrupted one leaves is never started, and keeps the member's own configuration."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import sync_directory, sync_file
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_order import Rejoin, connect
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_plan import RejoinPlan
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_local import LocalPrimary
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import conninfo as libpq
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance


def rewind(order: Rejoin, plan: RejoinPlan) -> None:
    """pg_rewind, between a mark that forbids to start what it leaves when it is interrupted, and its removal."""
    instance, data = order.instance, order.instance.data_directory
    if plan.checkpoint_source:
        with connect(order) as connection:
            connection.execute("CHECKPOINT")
    keep_configuration(order)
    order.state_directory.mkdir(parents=True, exist_ok=True)
    order.mark.write_text(json.dumps({"cluster": order.cluster, "member": order.name, "begun": time.time()}))
    sync_directory(order.state_directory)
    # Single-user recovery after a crash, which pg_rewind starts, refuses to be a standby.
    LocalPrimary(instance).remove_standby_signal()
    where = order.primary.conninfo or libpq.between_members(
        order.primary.address, order.primary.port, application_name="dbops.fleet rejoin"
    )
    command = [str(instance.binaries / "pg_rewind"), f"--target-pgdata={data}", f"--source-server={where}"]
    if instance.config_directory is not None:
        command.append(f"--config-file={instance.config_directory / 'postgresql.conf'}")
    if restore_command(instance):
        command.append("--restore-target-wal")
    if instance.control_data() is not None and _clean(instance):
        dry = _as_owner(instance, [*command, "--dry-run"])
        if dry.returncode:
            # Nothing was touched yet: the directory may still be started or cloned over.
            put_back(order)
            order.mark.unlink()
            raise OperationFailed(f"pg_rewind's dry run says: {_last_line(dry)}", host=order.name)
    done = _as_owner(instance, command)
    if done.returncode:
        raise OperationFailed(
            f"pg_rewind failed: {_last_line(done)}",
            host=order.name,
            remedy="Its data directory must not be started. Run again: it will be cloned.",
        )
    put_back(order)
    # As soon as the mark is gone it may be started, by a boot for instance, and then only as a standby.
    LocalPrimary(instance).write_standby_signal()
    order.mark.unlink()
    sync_directory(order.state_directory)


def keep_configuration(order: Rejoin) -> None:
    """pg_rewind and a clone bring the source's configuration along; that in the data directory is the member's own.

    It is kept on disk, and what a killed run kept is not overwritten: by now the source's may be in its place.
    """
    data, kept = order.instance.data_directory, order.kept
    if kept.exists() or not data.is_dir():
        return
    new = kept.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True, mode=0o700)
    for path in data.glob("*.conf"):
        if path.is_file():
            shutil.copy2(path, new / path.name)
            sync_file(new / path.name)
    sync_directory(new)
    new.rename(kept)
    sync_directory(kept.parent)


def put_back(order: Rejoin) -> None:
    """The kept configuration over the source's. Nothing where nothing was kept."""
    owner = order.instance.data_directory.stat()
    for path in order.kept.glob("*.conf"):
        target = order.instance.data_directory / path.name
        target.write_bytes(path.read_bytes())
        os.chown(target, owner.st_uid, owner.st_gid)
        sync_file(target)
    shutil.rmtree(order.kept, ignore_errors=True)


def _clean(instance: Instance) -> bool:
    control = instance.control_data()
    return control is not None and control.shut_down_cleanly


def restore_command(instance: Instance) -> str:
    """As its configuration says, also while it is stopped; empty for none."""
    command = [str(instance.binaries / "postgres"), "-D", str(instance.data_directory), "-C", "restore_command"]
    if instance.config_directory is not None:
        command.append(f"--config-file={instance.config_directory / 'postgresql.conf'}")
    return _as_owner(instance, command).stdout.strip()


def _as_owner(instance: Instance, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs as the owner of the data directory."""
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        owner = pwd.getpwuid(instance.data_directory.stat().st_uid)
        groups = os.getgrouplist(owner.pw_name, owner.pw_gid)
        identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": groups}
    environment = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run(
        list(command), capture_output=True, text=True, env=environment, cwd="/", check=False, **identity
    )


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"
