# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fence by two commands of the operator's, run on the controller: one switches off, the other says the state."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import shlex
import subprocess
import time

from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing import (
    CONFIRMED,
    UNCONFIRMED,
    Rung,
    command_says_off,
)


def fence_by_command(
    off_command: str, state_command: str, off_pattern: str, *, timeout: float = 10.0, command_timeout: float = 5.0
) -> Rung:
    """Switch off and poll the state until it says so. Exit codes are told, and count for nothing.

    A command that hangs is killed; the state is asked for all the same, because the order may have got through.

    Args:
        off_command, state_command: split as a shell would, and run without one.
        off_pattern: plain text in the state command's output that means "off".
        timeout: seconds for everything.
        command_timeout: seconds for one command.
    """
    deadline = time.monotonic() + timeout
    evidence = [_told("switching off", *_run(off_command, command_timeout))]
    while True:
        output, ending = _run(state_command, min(command_timeout, max(0.5, deadline - time.monotonic())))
        if ending == "ended with 0" and command_says_off(output, off_pattern):
            return Rung("command", CONFIRMED, (*evidence, _told("the state command", output, ending)))
        if time.monotonic() >= deadline:
            seen = _told("the state command", output, ending)
            wanted = f"it never said {off_pattern!r} within {timeout:g} s"
            return Rung("command", UNCONFIRMED, (*evidence, seen, wanted))
        time.sleep(0.2)


def _told(what: str, output: str, ending: str) -> str:
    text = " ".join(output.split())[-200:]
    return f"{what} {ending}" + (f" and said: {text}" if text else "")


def _run(command: str, timeout: float) -> tuple[str, str]:
    """Output and how it ended."""
    try:
        done = subprocess.run(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else ""
        return said, f"did not end within {timeout:g} s"
    except (OSError, ValueError, IndexError) as error:
        return "", f"could not be run ({error})"
    return done.stdout, f"ended with {done.returncode}"
