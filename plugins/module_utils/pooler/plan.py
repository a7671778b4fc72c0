# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What PgBouncer's files shall hold, how that changes them, and whether a running process goes by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.errors import Refused
from ansible_collections.dbops.fleet.plugins.module_utils.pooler import userlist
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.facts import PoolerFacts
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.ini import Ini, format_target, parse_target
from ansible_collections.dbops.fleet.plugins.module_utils.pooler.names import entry_name

# Options of a database that are not written, or not as they are.
_NOT_WRITTEN = ("name", "state", "host")

# Words of [users] that the module's `users` may set.
USER_LIMITS = ("pool_mode", "max_user_connections")

MASK = "********"


@dataclass(frozen=True)
class Wanted:
    """The files as they shall be.

    Attributes:
        config_file: the main file, with [pgbouncer] and [users].
        databases_file: where [databases] is; the main file itself, or one that it includes.
        userlist_file: the `auth_file`, None to leave users' passwords alone.
        settings, databases, limits, passwords: name to what stands behind it; limits are the lines of [users].
        absent_databases, absent_users: what shall not be there.
        further_files: what else the processes read, written by others.
        open_files: how many files each process shall be able to have open, None to leave that alone.
        purge_settings, purge_databases, purge_users: what is not named here shall not be there.
    """

    config_file: str
    databases_file: str
    userlist_file: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    databases: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    absent_databases: frozenset[str] = frozenset()
    absent_users: frozenset[str] = frozenset()
    further_files: tuple[str, ...] = ()
    open_files: int | None = None
    purge_settings: bool = False
    purge_databases: bool = False
    purge_users: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Wanted:
        """From the parameters of the module.

        Raises:
            Refused: something that PgBouncer's files cannot hold, or that is named twice.
        """
        databases, absent = _split(params["databases"], params["state"])
        users, absent_users = _split(params["users"], params["state"])
        limits = {
            user["name"]: format_target({key: str(user[key]) for key in USER_LIMITS if user.get(key) is not None})
            for user in users
            if any(user.get(key) is not None for key in USER_LIMITS)
        }
        passwords = {user["name"]: user["password"] for user in users if user.get("password") is not None}
        if passwords and not params["userlist_file"]:
            raise Refused("There are passwords, but no file for them", remedy="Set userlist_file.")
        for name in limits:
            entry_name(name, "user")
        return cls(
            config_file=params["config_file"],
            databases_file=params["databases_file"] or params["config_file"],
            userlist_file=params["userlist_file"],
            settings={entry_name(name, "setting"): setting_text(value) for name, value in params["settings"].items()},
            databases={entry_name(one["name"]): database_text(one) for one in databases},
            limits=limits,
            passwords=passwords,
            absent_databases=frozenset(one["name"] for one in absent),
            absent_users=frozenset(one["name"] for one in absent_users),
            further_files=tuple(params["further_files"]),
            open_files=params["open_files"],
            purge_settings=params["purge_settings"],
            purge_databases=params["purge_databases"],
            purge_users=params["purge_users"],
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file that this writes."""
        return tuple(dict.fromkeys(filter(None, (self.config_file, self.databases_file, self.userlist_file))))

    @property
    def read_paths(self) -> tuple[str, ...]:
        """Every file that the processes read."""
        return tuple(dict.fromkeys((*self.paths, *self.further_files)))


def setting_text(value: Any) -> str:
    """A setting as PgBouncer reads it: it knows 1 and 0, not true and false."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list | tuple):
        return ", ".join(map(setting_text, value))
    text = str(value)
    if "\n" in text:
        raise Refused(f"A setting cannot hold a line break: {text!r}", remedy="Write it in one line.")
    return text


def database_text(database: Mapping[str, Any]) -> str:
    """What stands behind ``name =`` in [databases]."""
    pairs: dict[str, str] = {}
    if database.get("host"):
        pairs["host"] = ",".join(database["host"])
    for key, value in database.items():
        if key not in _NOT_WRITTEN and value is not None:
            pairs[key] = str(value)
    return format_target(pairs)


def changed_files(wanted: Wanted, found: Mapping[str, str]) -> dict[str, str]:
    """The files that have to be written anew, with their text.

    Args:
        wanted: what they shall hold.
        found: path to text of those that are there.

    Raises:
        FleetError: a file that is there is not readable as PgBouncer's.
    """
    texts = dict.fromkeys(wanted.paths, "") | {path: found[path] for path in wanted.paths if path in found}
    main = Ini.parse(texts[wanted.config_file], wanted.config_file)
    main = main.with_entries("pgbouncer", wanted.settings, purge=wanted.purge_settings)
    main = main.without_entries("users", wanted.absent_users)
    if wanted.limits or wanted.purge_users:
        main = main.with_entries("users", _as_written(main, "users", wanted.limits), purge=wanted.purge_users)
    if wanted.databases_file == wanted.config_file:
        main = _with_databases(main, wanted)
    else:
        main = main.with_include(wanted.databases_file)
        databases = Ini.parse(texts[wanted.databases_file], wanted.databases_file)
        texts[wanted.databases_file] = _with_databases(databases, wanted).text()
    texts[wanted.config_file] = main.text()
    if wanted.userlist_file:
        texts[wanted.userlist_file] = userlist.rewrite(
            texts[wanted.userlist_file], wanted.passwords, wanted.absent_users, purge=wanted.purge_users
        )
    return {path: text for path, text in texts.items() if found.get(path) != text}


def diff(wanted: Wanted, found: Mapping[str, str], changed: Mapping[str, str]) -> list[dict[str, str]]:
    """What changes in each file, without secrets, in Ansible's form."""
    entries = []
    for path, after in changed.items():
        before = found.get(path, "")
        if path == wanted.userlist_file:
            shown = userlist.masked(before), userlist.masked(after, than=before)
        else:
            shown = _masked_ini(before), _masked_ini(after)
        entries.append({"before_header": path, "after_header": path, "before": shown[0], "after": shown[1]})
    return entries


def not_loaded(paths: Iterable[str], loaded: Mapping[str, str], present: Mapping[str, str]) -> tuple[str, ...]:
    """The files that differ from what the processes were last seen to have loaded.

    Args:
        paths: the files that this is about.
        loaded: path to digest, as noted then.
        present: path to digest of those that are there now.
    """
    return tuple(path for path in paths if loaded.get(path) != present.get(path))


def others_wait(wanted: Wanted, found: Mapping[str, str], facts: Sequence[PoolerFacts]) -> bool:
    """Whether entries that this is not about name other servers than are in use: a RELOAD is for whoever wrote that.

    They may have been staged for a change of roles that was interrupted.
    """
    if wanted.purge_databases:
        return False
    entries = Ini.parse(found.get(wanted.databases_file, ""), wanted.databases_file).entries("databases")
    own = {"*", *wanted.databases, *wanted.absent_databases}
    others = {name: parse_target(text) for name, text in entries.items() if name not in own}
    return any(_database_difference(name, pairs, one) for one in facts for name, pairs in others.items())


@dataclass(frozen=True)
class Difference:
    """How one running process differs from the files.

    Attributes:
        pending: sentences about what a RELOAD would bring, or should have brought.
        restart: settings that only a restart brings.
    """

    pending: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


def difference(wanted: Wanted, facts: PoolerFacts, own_settings: Mapping[str, str] | None = None) -> Difference:
    """Compare what is wanted with what a process has in force.

    Args:
        wanted: what the files hold, or will.
        facts: of the process.
        own_settings: what this process has in a file of its own, over the common one (with several processes).
    """
    targets: dict[str, str] = {}
    if wanted.purge_settings:
        # All that is named nowhere, also by an earlier file. What has no default is no setting of a file.
        targets = {one.name: one.default for one in facts.settings.values() if one.default is not None}
    targets |= {**wanted.settings, **(own_settings or {})}
    pending, restart = [], []
    for name, value in targets.items():
        running = facts.settings.get(name)
        if running is None or _same_setting(name, value, running.value):
            continue
        if running.changeable:
            pending.append(f"{name} is {running.value!r}, not {value!r}")
        else:
            restart.append(name)
    for name, text in wanted.databases.items():
        if name != "*" and (sentence := _database_difference(name, parse_target(text), facts)):
            pending.append(sentence)
    return Difference(tuple(pending), tuple(sorted(restart)))


def _split(entries: Sequence[Mapping[str, Any]], state: str) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    names = [entry["name"] for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"{name} is named twice", remedy="Name each database and user once.")
    present = [entry for entry in entries if entry["state"] == "present" and state != "absent"]
    return present, [entry for entry in entries if entry not in present]


def _with_databases(ini: Ini, wanted: Wanted) -> Ini:
    ini = ini.without_entries("databases", wanted.absent_databases)
    entries = _as_written(ini, "databases", wanted.databases)
    return ini.with_entries("databases", entries, purge=wanted.purge_databases)


def _as_written(ini: Ini, section: str, wanted: Mapping[str, str]) -> dict[str, str]:
    """The wanted lines, each as it stands in the file already if it says the same in other words."""
    present = ini.entries(section)
    return {
        name: present[name] if name in present and parse_target(present[name]) == parse_target(text) else text
        for name, text in wanted.items()
    }


def _masked_ini(text: str) -> str:
    lines = []
    for line in Ini.parse(text).lines:
        if line.section == "databases" and line.value and "password" in parse_target(line.value):
            pairs = parse_target(line.value) | {"password": MASK}
            lines.append(f"{line.name} = {format_target(pairs)}")
        else:
            lines.append(line.text)
    return "".join(f"{line}\n" for line in lines)


def _database_difference(name: str, pairs: Mapping[str, str], facts: PoolerFacts) -> str | None:
    database = facts.database(name)
    if database is None:
        return f"{name} is unknown"
    wanted = (pairs.get("host") or None, int(pairs.get("port", 5432)), pairs.get("dbname") or name)
    running = (database.host, database.port, database.dbname)
    return None if wanted == running else f"{name} points to {_place(*running)}, not to {_place(*wanted)}"


def _place(host: str | None, port: int, dbname: str | None) -> str:
    return f"{host or 'the unix socket'}:{port}/{dbname}"


def _same_setting(name: str, wanted: str, running: str) -> bool:
    if wanted == running:
        return True
    # SHOW CONFIG prints the mode in decimal.
    base = 8 if name == "unix_socket_mode" else 10
    try:
        return (int(wanted, base) if base == 8 else float(wanted)) == float(running)
    except ValueError:
        return False
