# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start PgBouncer for a moment with new files, away from everything, to see whether it takes them.

PgBouncer has no option to check a configuration. RELOAD answers yes even to files that it cannot read, and a running
process goes on with the old ones until its next start fails, perhaps months later.
"""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.console import Console, Endpoint, open_together
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.ini import Ini


def _away(directory: Path, port: int) -> dict[str, str]:
    """Settings that keep it away from the real process: a port and a socket of its own, and no files.

    It does listen on a port, on loopback: without one PgBouncer does not look at its certificates.
    """
    return {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": str(directory),
        "unix_socket_mode": "0700",
        "pidfile": f"{directory}/pid",
        "logfile": "",
        "syslog": "0",
        "so_reuseport": "0",
    }


def try_files(config_file: str, texts: Mapping[str, str], owner: tuple[int, int], program: str = "pgbouncer") -> None:
    """See whether PgBouncer starts with these files.

    Args:
        config_file: the main file's path.
        texts: path to new text, of all files whose text is not what is on disk.
        owner: user and group id that PgBouncer runs as; used when this process is root's.
        program: the command.

    Raises:
        Refused: it does not; the message has PgBouncer's own words. Without the program nothing is tried.
    """
    if shutil.which(program) is None:
        return
    with tempfile.TemporaryDirectory(prefix="dbops-fleet-trial-") as name:
        directory = Path(name)
        copies = {path: directory / f"{number}.ini" for number, path in enumerate(texts)}
        copies.setdefault(config_file, directory / "main.ini")
        texts = dict(texts)
        if config_file not in texts:
            texts[config_file] = Path(config_file).read_text()
        for path, copy in copies.items():
            copy.write_text(_point_to(texts[path], copies))
        port = _free_port()
        main = Ini.parse(copies[config_file].read_text(), config_file)
        copies[config_file].write_text(main.with_entries("pgbouncer", _away(directory, port)).text())
        if os.geteuid() == 0:
            for own in (directory, *directory.iterdir()):
                os.chown(own, *owner)
        console = Endpoint("trial", str(directory), port)
        names = {str(copy): path for path, copy in copies.items()}
        _start(program, copies[config_file], console, owner, names)


def _point_to(text: str, copies: Mapping[str, Path]) -> str:
    """The text with the copies in place of the files, in its lines `%include` and `auth_file`."""
    for path, copy in copies.items():
        text = re.sub(
            rf"^(\s*(?:%include\s+|auth_file\s*=\s*)){re.escape(path)}\s*$", rf"\g<1>{copy}", text, flags=re.MULTILINE
        )
    return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(program: str, main: Path, console: Endpoint, owner: tuple[int, int], names: Mapping[str, str]) -> None:
    directory = Path(console.host)
    as_user = {"user": owner[0], "group": owner[1], "extra_groups": []} if os.geteuid() == 0 else {}
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # type: ignore[call-overload]
            [program, str(main)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            **as_user,
        )
    try:
        deadline = time.monotonic() + 10
        while process.poll() is None and not _answers(console) and time.monotonic() < deadline:
            time.sleep(0.01)
        text = log.read_text(errors="replace")
        complaints = re.findall(r" (?:ERROR|FATAL) (.*)", text)
        if process.poll() is not None or complaints:
            reason = _real_names("; ".join(complaints or [text]), names)
            raise Refused(
                f"PgBouncer does not start with this configuration: {reason}",
                remedy="Nothing has been changed. Correct the settings, users or databases that it names.",
            )
    finally:
        process.kill()
        process.wait()


def _answers(console: Endpoint) -> bool:
    """Whether it is up: it listens before it has looked at everything, and answers only then."""
    if not Path(console.socket_path).exists():
        return False
    outcome = open_together([console], timeout_seconds=1.0)[0]
    if isinstance(outcome, Console):
        outcome.close()
        return True
    return False


def _real_names(text: str, names: Mapping[str, str]) -> str:
    for copy, path in names.items():
        text = text.replace(copy, path)
    return text.strip()
