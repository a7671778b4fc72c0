# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes files and directories as planned: staged and validated all, then renamed into place."""

from __future__ import annotations

# Runs programs where no AnsibleModule is: in workers and behind dbops. pylint: disable=ansible-bad-function
import contextlib
import grp
import os
import pwd
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed, Refused
from ansible_collections.dbops.fleet.plugins.module_utils.files.plan import (
    Found,
    Plan,
    Step,
    Wanted,
    diff_of,
    make_plan,
    parse,
)
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome

# A name that PostgreSQL's include_dir, cron and systemd all pass over: it begins with a dot.
STAGED_PREFIX = ".dbops-"
LEFTOVER_AGE_SECONDS = 3600
VALIDATE_TIMEOUT_SECONDS = 60


def manage(params: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Make files and directories as `params` (the module's) say. See the module for what it refuses.

    Raises:
        Refused: before anything was changed.
        OperationFailed: a validation or a write failed; every file is as it was.
    """
    try:
        directories, files = parse(params)
        plan = _look_and_plan(directories, files)
        warnings = tuple(f"{sentence}." for sentence, _remedy in plan.obstacles)
        if plan.obstacles and not check_mode:
            sentence, remedy = plan.obstacles[0]
            raise Refused(sentence, remedy=remedy)
        if check_mode:
            warnings += tuple(_validate_only(plan))
        else:
            _apply(plan)
    except FleetError as error:
        error.host = error.host or socket.gethostname()
        raise
    except OSError as error:
        raise OperationFailed(
            f"{error.filename or 'A file'} could not be written: {error.strerror}",
            host=socket.gethostname(),
            remedy="Every file is as it was. Repair the cause and run again.",
        ) from error
    changed = plan.changed_paths
    return Outcome(bool(changed), {"changed_paths": changed}, warnings=warnings, diff=diff_of(plan))


def observe(path: str) -> Found:
    """What is at `path` now, links not followed."""
    parent = os.path.isdir(os.path.dirname(path))
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return Found("absent", parent_is_directory=parent)
    except NotADirectoryError:
        return Found("absent", parent_is_directory=False)
    kinds: dict[str, Callable[[int], bool]] = {"file": stat.S_ISREG, "directory": stat.S_ISDIR, "symlink": stat.S_ISLNK}
    kind = next((name for name, is_kind in kinds.items() if is_kind(status.st_mode)), "other")
    content = Path(path).read_bytes() if kind == "file" else None
    owner, group = _name(status.st_uid, _owner_name), _name(status.st_gid, _group_name)
    return Found(kind, owner, group, stat.S_IMODE(status.st_mode), content, parent)


def _look_and_plan(directories: tuple[Wanted, ...], files: tuple[Wanted, ...]) -> Plan:
    every = directories + files
    return make_plan(
        directories,
        files,
        {wanted.path: observe(wanted.path) for wanted in every},
        frozenset(wanted.owner for wanted in every if not _exists(pwd.getpwnam, wanted.owner)),
        frozenset(wanted.group for wanted in every if not _exists(grp.getgrnam, wanted.group)),
    )


@dataclass
class _Staged:
    """A new file beside its target, and the name that the old file is kept under until all are in place."""

    target: str
    new: str
    old: str | None = None


def _apply(plan: Plan) -> None:
    for step in plan.directories:
        _make_directory(step)
    staged: list[_Staged] = []
    try:
        for step in plan.files:
            staged.append(_stage(step.wanted, os.path.dirname(step.wanted.path)))
        for step, each in zip(plan.files, staged, strict=True):
            _validate(step.wanted, each.new)
        _put_in_place(staged)
    finally:
        for each in staged:
            for leftover in filter(None, (each.new, each.old)):
                Path(leftover).unlink(missing_ok=True)
        for directory in {os.path.dirname(each.target) for each in staged}:
            _sync_directory(directory)


def _put_in_place(staged: list[_Staged]) -> None:
    """Rename all, or none: when one fails, those before it are put back."""
    renamed: list[_Staged] = []
    try:
        for each in staged:
            if os.path.lexists(each.target):
                old = f"{each.new}.old"
                os.link(each.target, old, follow_symlinks=False)
                each.old = old
            os.replace(each.new, each.target)
            renamed.append(each)
    except OSError:
        for each in renamed:
            if each.old is None:
                Path(each.target).unlink()
            else:
                os.replace(each.old, each.target)
        raise


def _make_directory(step: Step) -> None:
    wanted = step.wanted
    if step.found.kind == "absent":
        os.mkdir(wanted.path, 0o700)
    os.chown(wanted.path, pwd.getpwnam(wanted.owner).pw_uid, grp.getgrnam(wanted.group).gr_gid)
    os.chmod(wanted.path, wanted.mode)
    _sync_directory(os.path.dirname(wanted.path))


def _stage(wanted: Wanted, directory: str) -> _Staged:
    """Write the new content into a file of its own in `directory`, complete and on disk, but not yet in place."""
    _remove_leftovers(directory)
    # mkstemp: an unused name, mode 0600, no link followed, also in a directory that another user can write to.
    descriptor, name = tempfile.mkstemp(prefix=f"{STAGED_PREFIX}{os.path.basename(wanted.path)}.", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write((wanted.content or "").encode())
            file.flush()
            os.fchown(file.fileno(), pwd.getpwnam(wanted.owner).pw_uid, grp.getgrnam(wanted.group).gr_gid)
            os.fchmod(file.fileno(), wanted.mode)
            os.fsync(file.fileno())
    except BaseException:
        Path(name).unlink()
        raise
    return _Staged(wanted.path, name)


def _remove_leftovers(directory: str) -> None:
    """Remove what a killed run left. Only what is old: a run at the same time may still need its own."""
    for leftover in Path(directory).glob(f"{STAGED_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if leftover.is_file() and time.time() - leftover.lstat().st_mtime > LEFTOVER_AGE_SECONDS:
                leftover.unlink()


def _validate(wanted: Wanted, staged: str) -> None:
    if not wanted.validate:
        return
    command = [part.replace("%s", staged) for part in wanted.validate]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            timeout=VALIDATE_TIMEOUT_SECONDS,
            check=False,
        )
        said = done.stdout.strip() or f"exit code {done.returncode}"
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        said, failed = f"no answer within {VALIDATE_TIMEOUT_SECONDS} s", True
    if failed:
        # A validator quotes the lines it dislikes, and those may be the secret.
        said = "its output is not shown, because the file is secret" if wanted.secret else said
        raise OperationFailed(
            f"The new {wanted.path} was rejected by {wanted.validate[0]}: {said}",
            remedy="Every file is as it was. Correct what the file is made from and run again.",
            path=wanted.path,
        )


def _validate_only(plan: Plan) -> Iterator[str]:
    """Check mode's part of the real run: validate in a private place; say so where the validator is not there yet."""
    for step in plan.files:
        if not step.wanted.validate:
            continue
        if shutil.which(step.wanted.validate[0]) is None:
            yield f"{step.wanted.path} was not validated: {step.wanted.validate[0]} is not installed yet."
            continue
        if not (_exists(pwd.getpwnam, step.wanted.owner) and _exists(grp.getgrnam, step.wanted.group)):
            continue
        with tempfile.TemporaryDirectory(prefix="dbops-check-") as directory:
            _validate(step.wanted, _stage(step.wanted, directory).new)


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(lookup: Callable[[str], object], name: str) -> bool:
    try:
        lookup(name)
    except KeyError:
        return False
    return True


def _owner_name(uid: int) -> str:
    return pwd.getpwuid(uid).pw_name


def _group_name(gid: int) -> str:
    return grp.getgrgid(gid).gr_name


def _name(number: int, lookup: Callable[[int], str]) -> str:
    """The name of a user or group id; the number itself when it has none, which then equals no wanted name."""
    try:
        return lookup(number)
    except KeyError:
        return str(number)
