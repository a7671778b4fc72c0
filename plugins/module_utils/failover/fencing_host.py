# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence on the old primary's own host: its unit masked, no postmaster, and a next start that makes a standby."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing import CONFIRMED, UNCONFIRMED, Rung
from ansible_collections.dbops.fleet.plugins.module_utils.failover.journal import sync_directory
from ansible_collections.dbops.fleet.plugins.module_utils.failover.sight import STATE_DIRECTORY
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_local import LocalPrimary
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.instance import Instance


def mark_file(directory: Path = STATE_DIRECTORY) -> Path:
    """Says that this host's instance was fenced; `rejoin` takes it away."""
    return directory / "fenced.json"


def fence_host(
    instance: Instance,
    cluster: str,
    *,
    stop_timeout: float = 3.0,
    directory: Path = STATE_DIRECTORY,
    root: Path = Path("/"),
) -> Rung:
    """Stop the instance for good and read back that it is.

    The order matters: the mark and standby.signal first, so that whatever starts the server meanwhile starts a standby;
    then the unit is masked, so that nothing starts it; then the server is stopped, fast, immediately, by SIGKILL.

    Where the instance has no data, nothing is touched if there may be a server all the same: it may be of another
    version, or its file system was unmounted under it.

    Args:
        stop_timeout: seconds for each of the three.
        root: of the file system, for tests.
    """
    absent = instance.data_version is None
    if absent and (found := _other_servers(instance, root)):
        nothing = f"there is no instance {instance.version}/{instance.name}: no PG_VERSION in {instance.data_directory}"
        return Rung("ssh", UNCONFIRMED, (nothing, *found, "nothing was stopped; is postgres_server_version right?"))
    directory.mkdir(parents=True, exist_ok=True)
    mark_file(directory).write_text(json.dumps({"cluster": cluster, "fenced": time.time(), "unit": instance.unit}))
    sync_directory(directory)
    if absent:
        masked = mask(instance, True)
        evidence = (
            "no process on this host is called postgres, and no other instance is configured",
            _told_mask(instance, masked),
        )
        return Rung("ssh", UNCONFIRMED if masked is False else CONFIRMED, evidence)
    LocalPrimary(instance).write_standby_signal()
    masked = mask(instance, True)
    stop_instance(instance, stop_timeout)
    return _read_back(instance, masked)


def _other_servers(instance: Instance, root: Path) -> list[str]:
    """Sentences about servers that run here, and other instances, which could be started."""
    own = f"{instance.version}/{instance.name}"
    running = []
    for entry in (root / "proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == "postgres":
                running.append(entry.name)
    found = sorted("/".join(path.parts[-2:]) for path in (root / "etc/postgresql").glob("[0-9]*/*"))
    configured = [name for name in found if name != own]
    sentences = []
    if running:
        sentences.append(f"processes called postgres: {', '.join(running)}")
    if configured:
        sentences.append(f"configured in /etc/postgresql: {', '.join(configured)}")
    return sentences


def stop_instance(instance: Instance, timeout: float = 30.0) -> bool:
    """Stop the server fast, then immediately, then by SIGKILL; whether it is gone.

    Args:
        timeout: seconds for each of the three.
    """
    signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)
    return any(_stopped(instance, number, timeout) for number in signals)


def mask(instance: Instance, on: bool) -> bool | None:
    """Mask or unmask the unit, across boots; whether it is masked afterwards, None where there is no systemd."""
    if not instance.unit or not Path("/run/systemd/system").is_dir():
        return None
    verb = "mask" if on else "unmask"
    subprocess.run(
        ["systemctl", verb, instance.unit], capture_output=True, env={"LC_ALL": "C"}, check=False, timeout=10
    )
    command = ["systemctl", "show", "--property=LoadState", "--value", instance.unit]
    state = subprocess.run(command, capture_output=True, text=True, env={"LC_ALL": "C"}, check=False, timeout=10)
    return state.stdout.strip() == "masked"


def _stopped(instance: Instance, number: signal.Signals, timeout: float) -> bool:
    """Signal the postmaster; with SIGKILL its children too, because they would go on for a moment on their own."""
    pid = instance.pid
    if pid is None:
        return True
    victims = [pid, *_children(pid)] if number == signal.SIGKILL else [pid]
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, number)
    if number != signal.SIGKILL:
        # A frozen postmaster reads its signals only when it goes on.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + timeout
    while instance.pid is not None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def _read_back(instance: Instance, masked: bool | None) -> Rung:
    processes = processes_in(instance.data_directory)
    signalled = (instance.data_directory / "standby.signal").exists()
    evidence = (
        "no process uses the data directory"
        if not processes
        else f"processes use the data directory: {', '.join(map(str, processes))}",
        _told_mask(instance, masked),
        "standby.signal is there: another start makes a standby" if signalled else "standby.signal is missing",
    )
    confirmed = not processes and signalled and masked is not False
    return Rung("ssh", CONFIRMED if confirmed else UNCONFIRMED, evidence)


def _told_mask(instance: Instance, masked: bool | None) -> str:
    if masked is None:
        return "there is no systemd"
    return f"{instance.unit} is {'' if masked else 'not '}masked"


def processes_in(directory: Path) -> list[int]:
    """Processes whose working directory is the data directory: the postmaster and all of its children."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.path.samefile(entry / "cwd", directory):
                    found.append(int(entry.name))
    return found


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
    return found
