# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the checkout on a test host, for programs and tests that run there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

from hosts.fixtures import Hosts  # noqa: E402


def send(hosts: Hosts, name: str, place: str, *parts: str) -> None:
    """Copy files of the checkout as they are now, committed or not; `place` has these and nothing else afterwards.

    Args:
        hosts: the set.
        name: of the host.
        place: a directory there, for this alone.
        parts: directories and files, relative to the checkout.
    """
    tracked = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *parts)
    files = subprocess.run(tracked, cwd=CHECKOUT, check=True, capture_output=True).stdout
    packed = subprocess.run(
        ("tar", "--create", "--null", "--files-from=-"), cwd=CHECKOUT, check=True, input=files, capture_output=True
    )
    unpack = f"rm -rf {place} && mkdir -p {place} && tar --extract --directory={place} && sync"
    # On standard input: the words of a command have a limit.
    subprocess.run(hosts.ssh_command(name, unpack), check=True, input=packed.stdout, capture_output=True)
