# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""managed_files on a real disk, as a function and through Ansible."""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.dbops.fleet.plugins.module_utils.errors import OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.files import apply
from ansible_collections.dbops.fleet.plugins.module_utils.files.apply import manage

ME = pwd.getpwuid(os.getuid()).pw_name
REJECT = [sys.executable, "-c", "import sys; sys.exit('line 1 is bad in ' + open(sys.argv[1]).read())", "%s"]
ACCEPT = [sys.executable, "-c", "import sys; open(sys.argv[1]).read()", "%s"]


def file(path: Path, content: str = "new\n", **options: Any) -> dict[str, Any]:
    entry = {"content": content, "secret_content": None, "owner": ME, "group": ME, "mode": None, "validate": []}
    return {"path": str(path), **entry, **options}


def names(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()}


def test_writes_files_and_directories_and_then_finds_nothing_to_do(tmp_path: Path) -> None:
    params = {
        "directories": [{"path": str(tmp_path / "d"), "owner": ME, "group": ME, "mode": "0750"}],
        "files": [file(tmp_path / "d/a"), file(tmp_path / "d/b", "", secret_content="hush\n", validate=ACCEPT)],
    }
    first = manage(params, False)
    assert first.result["changed_paths"] == [str(tmp_path / part) for part in ("d", "d/a", "d/b")]
    assert (tmp_path / "d/b").read_text() == "hush\n"
    assert [stat.S_IMODE((tmp_path / part).stat().st_mode) for part in ("d", "d/a", "d/b")] == [0o750, 0o644, 0o600]
    assert names(tmp_path / "d") == {"a", "b"}
    second = manage(params, False)
    assert (second.changed, second.result, second.diff) == (False, {"changed_paths": []}, [])


def test_check_mode_tells_the_same_as_the_run_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old\n")
    params = {"files": [file(tmp_path / "a", validate=ACCEPT), file(tmp_path / "b")]}
    checked = manage(params, True)
    assert names(tmp_path) == {"a"}
    assert (tmp_path / "a").read_text() == "old\n"
    done = manage(params, False)
    assert (checked.changed, checked.result, checked.diff) == (done.changed, done.result, done.diff)


def test_one_rejected_file_leaves_all_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old\n")
    params = {"files": [file(tmp_path / "a"), file(tmp_path / "b", validate=REJECT)]}
    for check_mode in (True, False):
        with pytest.raises(OperationFailed, match="line 1 is bad in new") as failure:
            manage(params, check_mode)
        assert str(tmp_path / "b") in str(failure.value)
        assert failure.value.host == socket.gethostname()
        assert names(tmp_path) == {"a"}
        assert (tmp_path / "a").read_text() == "old\n"


def test_the_words_of_a_validator_about_a_secret_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(OperationFailed) as failure:
        manage({"files": [file(tmp_path / "a", "", secret_content="hush", validate=REJECT)]}, False)
    assert "hush" not in str(failure.value)


def test_a_rename_that_fails_puts_the_others_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("old\n")
    real = os.replace

    def replace(source: str, target: str) -> None:
        if target.endswith("/c"):
            raise OSError(28, "No space left on device", target)
        real(source, target)

    monkeypatch.setattr(apply.os, "replace", replace)
    with pytest.raises(OperationFailed, match="No space left"):
        manage({"files": [file(tmp_path / name) for name in "abc"]}, False)
    assert names(tmp_path) == {"a"}
    assert (tmp_path / "a").read_text() == "old\n"


def test_a_missing_parent_is_refused_by_name_and_in_check_mode_a_warning(tmp_path: Path) -> None:
    params = {"files": [file(tmp_path / "none" / "a")]}
    with pytest.raises(Refused, match=f"{tmp_path}/none for"):
        manage(params, False)
    assert f"{tmp_path}/none for" in manage(params, True).warnings[0]


def test_a_symbolic_link_is_refused_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine\n")
    (tmp_path / "a").symlink_to("target")
    with pytest.raises(Refused, match="symbolic link"):
        manage({"files": [file(tmp_path / "a")]}, False)
    assert (tmp_path / "target").read_text() == "mine\n"


def test_removes_what_a_killed_run_left_long_ago(tmp_path: Path) -> None:
    left, fresh = tmp_path / ".dbops-a.xyz", tmp_path / ".dbops-a.new"
    left.write_text("half")
    fresh.write_text("of a run at the same time")
    os.utime(left, (1, 1))
    manage({"files": [file(tmp_path / "a")]}, False)
    assert names(tmp_path) == {"a", fresh.name}


def test_ansible_shows_no_secret_however_verbose(tmp_path: Path) -> None:
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "tasks": [
                {
                    "dbops.fleet.managed_files": {
                        "files": [
                            {"path": f"{tmp_path}/a", "content": "open {{ word }}\n", "owner": ME, "group": ME},
                            {"path": f"{tmp_path}/b", "secret_content": "hush\n{{ word }}", "owner": ME, "group": ME},
                        ]
                    }
                }
            ],
        }
    ]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    playbook = str(Path(sys.executable).parent / "ansible-playbook")
    for word in ("one", "two"):
        command = [playbook, "--diff", "-vvv", "-e", f"word={word}", str(tmp_path / "play.yml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"+open {word}" in done.stdout
        assert "hush" not in done.stdout + done.stderr
    assert (tmp_path / "b").read_text() == "hush\ntwo"
