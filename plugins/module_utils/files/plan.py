# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files and directories have to change: facts in, a plan or a refusal out. Nothing here touches the disk."""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused

SECRET_TEXT = "(secret, not shown)\n"


@dataclass(frozen=True)
class Wanted:
    """A file or directory as it shall be.

    Attributes:
        path: absolute and normal (no ``..``, no trailing slash).
        content: the whole text of a file; None means a directory.
        secret: the content must never be shown.
        validate: a command with one element containing ``%s``, where the path of the new file goes; empty for none.
    """

    path: str
    owner: str
    group: str
    mode: int
    content: str | None = None
    secret: bool = False
    validate: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What is at a path now: ``kind`` is absent, file, directory, symlink or other."""

    kind: str
    owner: str = ""
    group: str = ""
    mode: int = 0
    content: bytes | None = None
    parent_is_directory: bool = True


@dataclass(frozen=True)
class Step:
    """One file or directory that has to be made or changed."""

    wanted: Wanted
    found: Found

    @property
    def content_differs(self) -> bool:
        return self.wanted.content is not None and self.found.content != self.wanted.content.encode()

    @property
    def attributes_differ(self) -> bool:
        return _attributes(self.wanted) != _attributes(self.found)


@dataclass(frozen=True)
class Plan:
    """What has to be done.

    Attributes:
        directories: to make or change, parents before their children.
        files: to write anew, in the order they were asked for.
        obstacles: what a real run is refused for, and check mode only warns about, because an earlier task
            that check mode did not carry out (a package, a user) may bring it: pairs of sentence and remedy.
    """

    directories: tuple[Step, ...]
    files: tuple[Step, ...]
    obstacles: tuple[tuple[str, str], ...] = ()

    @property
    def changed_paths(self) -> list[str]:
        return [step.wanted.path for step in self.directories + self.files]


def parse(params: Mapping[str, Any]) -> tuple[tuple[Wanted, ...], tuple[Wanted, ...]]:
    """The module's parameters as (directories, files). Raises Refused for what can never be right."""
    directories = tuple(_directory(entry) for entry in params.get("directories") or ())
    files = tuple(_file(entry) for entry in params.get("files") or ())
    seen: set[str] = set()
    for wanted in directories + files:
        if wanted.path in seen:
            raise Refused(f"{wanted.path} is listed twice", remedy="List every path once.")
        seen.add(wanted.path)
    return tuple(sorted(directories, key=lambda wanted: wanted.path)), files


def make_plan(
    directories: tuple[Wanted, ...],
    files: tuple[Wanted, ...],
    found: Mapping[str, Found],
    unknown_owners: frozenset[str] = frozenset(),
    unknown_groups: frozenset[str] = frozenset(),
) -> Plan:
    """Compare what is wanted with what was found.

    Args:
        found: what is at each wanted path.
        unknown_owners: wanted owners that this host does not have; unknown_groups likewise.

    Raises:
        Refused: something else than a regular file or directory is at a path.
    """
    made_here = {wanted.path for wanted in directories}
    obstacles: dict[tuple[str, str], None] = {}
    for wanted in directories + files:
        _refuse_other_kinds(wanted, found[wanted.path])
        parent = os.path.dirname(wanted.path)
        if not found[wanted.path].parent_is_directory and parent not in made_here:
            remedy = "Install what brings it, or list it under `directories`."
            obstacles[(f"The directory {parent} for {wanted.path} does not exist", remedy)] = None
        if wanted.owner in unknown_owners:
            remedy = "Install the package that makes the user, or name another owner."
            obstacles[(f"There is no user {wanted.owner} to own {wanted.path}", remedy)] = None
        if wanted.group in unknown_groups:
            remedy = "Install the package that makes the group, or name another group."
            obstacles[(f"There is no group {wanted.group} for {wanted.path}", remedy)] = None
    return Plan(_changing(directories, found), _changing(files, found), tuple(obstacles))


def diff_of(plan: Plan) -> list[dict[str, str]]:
    """Ansible's list form of a diff: one entry per change of content and one per change of owner, group or mode."""
    entries: list[dict[str, str]] = []
    for step in plan.directories + plan.files:
        path = step.wanted.path
        if step.content_differs:
            before, after = _texts(step)
            entries.append({"before_header": path, "after_header": path, "before": before, "after": after})
        if step.attributes_differ:
            header = f"{path} (owner, group, mode)"
            before, after = _attributes_text(step.found), _attributes_text(step.wanted)
            entries.append({"before_header": header, "after_header": header, "before": before, "after": after})
    return entries


def _directory(entry: Mapping[str, Any]) -> Wanted:
    path = _path(entry["path"])
    return Wanted(path, entry["owner"], entry["group"], _mode(path, entry["mode"] or "0755"))


def _file(entry: Mapping[str, Any]) -> Wanted:
    path = _path(entry["path"])
    secret = entry.get("secret_content") is not None
    mode = _mode(path, entry["mode"] or ("0600" if secret else "0644"))
    if secret and mode & 0o007:
        raise Refused(f"{path} is secret and mode {mode:04o} opens it to every user", remedy="Use 0600 or 0640.")
    validate = tuple(entry.get("validate") or ())
    if validate and not any("%s" in part for part in validate):
        raise Refused(f"`validate` of {path} has no %s", remedy="Put %s where the path of the new file shall go.")
    content = entry["secret_content"] if secret else entry["content"]
    return Wanted(path, entry["owner"], entry["group"], mode, content, secret, validate)


def _path(path: str) -> str:
    if not path.startswith("/"):
        raise Refused(f"{path or '(empty path)'} is not an absolute path", remedy="Begin it with /.")
    normal = os.path.normpath(path)
    if normal != (path.rstrip("/") or "/") or normal == "/":
        raise Refused(f"{path} is not a plain path", remedy="Write it without `..`, `.` and doubled slashes.")
    return normal


def _mode(path: str, mode: str) -> int:
    # An unquoted 0640 reaches us as "416": the four digits tell a mode from a number that YAML has converted.
    if not re.fullmatch(r"[0-7]{4}", mode):
        raise Refused(f"{mode} is no mode for {path}", remedy='Write four octal digits in quotes, such as "0640".')
    return int(mode, 8)


def _refuse_other_kinds(wanted: Wanted, found: Found) -> None:
    kind = "directory" if wanted.content is None else "file"
    if found.kind in {"absent", kind}:
        return
    if found.kind == "symlink":
        raise Refused(
            f"{wanted.path} is a symbolic link, where a {kind} shall be",
            remedy="Name the path it points to, or remove the link.",
        )
    raise Refused(
        f"{wanted.path} is no {kind}" + (" but a directory" if found.kind == "directory" else ""),
        remedy="Move it away, if nobody needs it.",
    )


def _changing(wanted: tuple[Wanted, ...], found: Mapping[str, Found]) -> tuple[Step, ...]:
    steps = (Step(each, found[each.path]) for each in wanted)
    return tuple(step for step in steps if step.content_differs or step.attributes_differ)


def _attributes(side: Wanted | Found) -> tuple[str, str, int]:
    return side.owner, side.group, side.mode


def _attributes_text(side: Wanted | Found) -> str:
    if isinstance(side, Found) and side.kind == "absent":
        return ""
    return f"owner: {side.owner}\ngroup: {side.group}\nmode: {side.mode:04o}\n"


def _texts(step: Step) -> tuple[str, str]:
    """Before and after of a file's content; a secret only shows whether it was there."""
    if step.wanted.secret:
        return ("" if step.found.content is None else f"old {SECRET_TEXT}"), f"new {SECRET_TEXT}"
    return (step.found.content or b"").decode(errors="replace"), step.wanted.content or ""
