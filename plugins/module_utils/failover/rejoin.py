# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a member a replica again: reads what `rejoin_plan.py` decides from, acts on the plan, proves the outcome."""

from __future__ import annotations

import os
import pwd
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.dbops.fleet.plugins.module_utils.clone import run as clone_run
from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import CloneRequest
from ansible_collections.dbops.fleet.plugins.module_utils.clone.facts import Source as CloneSource
from ansible_collections.dbops.fleet.plugins.module_utils.clone.settings import auto_conf
from ansible_collections.dbops.fleet.plugins.module_utils.errors import FleetError, OperationFailed
from ansible_collections.dbops.fleet.plugins.module_utils.failover.fencing_host import mark_file, mask, stop_instance
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_lost import save_lost
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_order import Rejoin, connect
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_plan import (
    Consent,
    Directory,
    RejoinPlan,
    Source,
    plan_rejoin,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_rewind import (
    keep_configuration,
    put_back,
    restore_command,
    rewind,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.rejoin_synchronous import restore
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_local import (
    STALE_SLOTS,
    LocalPrimary,
    start_server,
)
from ansible_collections.dbops.fleet.plugins.module_utils.failover.switchover_remote import configure_session
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_ports import PortError
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_remote import RemoteReplica
from ansible_collections.dbops.fleet.plugins.module_utils.failover.unplanned_request import Member
from ansible_collections.dbops.fleet.plugins.module_utils.failover.vantage import Target
from ansible_collections.dbops.fleet.plugins.module_utils.failover.wal_end import wal_end
from ansible_collections.dbops.fleet.plugins.module_utils.outcome import Outcome
from ansible_collections.dbops.fleet.plugins.module_utils.postgres import conninfo as libpq
from ansible_collections.dbops.fleet.plugins.module_utils.postgres.lsn import Lsn
from ansible_collections.dbops.fleet.plugins.module_utils.topology.facts import MemberFacts
from ansible_collections.dbops.fleet.plugins.module_utils.topology.host import read_instance
from ansible_collections.dbops.fleet.plugins.module_utils.topology.read import read_remote


def rejoin(order: Rejoin, check_mode: bool) -> Outcome:
    """Observe, plan, act, prove.

    Raises:
        Refused: nothing was changed.
        OperationFailed: what is left behind is in the message; running it again goes on from there.
    """
    target, directory = _target(order)
    source, origin = _source(order)
    upstream = _read(order.upstream) if order.upstream else None
    plan = plan_rejoin(target, source, directory, origin, order.consent, cluster=order.cluster, upstream=upstream)
    before = {
        "member": order.name,
        "state": target.state,
        "timeline": target.timeline,
        "position": str(target.position),
    }
    result: dict[str, Any] = {"plan": plan.to_dict(), "action": plan.action, "msg": plan.reason}
    result |= {"lost": None, "synchronous": None}
    if not plan.changes:
        result["synchronous"] = _restore_synchronous(order, check_mode)
        return Outcome(result["synchronous"] is not None, result, before, before)
    after = {"member": order.name, "state": "running", "timeline": source.timeline, "follows": order.primary.name}
    if check_mode:
        return Outcome(True, result, before, after)
    result |= _act(order, plan, target)
    result |= _prove(order)
    result["synchronous"] = _restore_synchronous(order)
    return Outcome(True, result, before, after)


def _restore_synchronous(order: Rejoin, check_mode: bool = False) -> dict[str, Any] | None:
    """See `rejoin_synchronous.restore`."""
    if order.lowered_synchronous is None:
        return None
    servers = {t.name: RemoteReplica(Member(t.name, t.address, t.port, conninfo=t.conninfo)) for t in order.members}
    primary = servers.pop(order.primary.name)
    try:
        return restore(
            primary,
            servers,
            name=order.primary.name,
            lowered=order.lowered_synchronous,
            before=order.synchronous_before,
            check_mode=check_mode,
        )
    except PortError as error:
        raise OperationFailed(
            f"it follows {order.primary.name}, but synchronous_standby_names could not be put back there: {error}",
            host=order.name,
            remedy="Run it again.",
        ) from error
    finally:
        for server in (primary, *servers.values()):
            server.close()


def _target(order: Rejoin) -> tuple[MemberFacts, Directory]:
    instance = order.instance
    found = read_instance(instance, order.address)
    facts = replace(found.member, name=order.name, address=order.address)
    if found.state in ("absent", "empty"):
        facts = replace(facts, state="absent")
    unreadable = None
    end = None
    if facts.control is None and facts.state not in ("absent", "unreachable"):
        unreadable = facts.error or "it is missing"
    elif facts.control is not None and facts.timeline is not None:
        start = max(facts.control.checkpoint_lsn, facts.control.min_recovery_lsn, facts.replay_lsn or Lsn(0))
        end = wal_end(instance, facts.timeline, start)
    data = instance.data_directory
    free = shutil.disk_usage(data if data.exists() else data.parent).free
    return facts, Directory(
        end,
        order.mark.exists() or found.state == "interrupted_clone",
        tuple(_unfit(data)),
        _tablespaces(data),
        len(list((data / "pg_wal" / "archive_status").glob("*.ready"))),
        free,
        unreadable,
        facts.control is not None and bool(restore_command(instance)),
    )


def _unfit(data: Path) -> list[str]:
    """What pg_rewind could not overwrite. Links for pg_wal and for tablespaces are PostgreSQL's own."""
    unfit = []
    for folder, names, files in os.walk(data):
        for name in [*names, *files]:
            path = Path(folder) / name
            inside = path.relative_to(data)
            if path.is_symlink():
                if inside != Path("pg_wal") and inside.parent != Path("pg_tblspc"):
                    unfit.append(str(inside))
            elif name in files and (not path.is_file() or not path.stat().st_mode & 0o200):
                unfit.append(str(inside))
    return unfit


def _tablespaces(data: Path) -> tuple[str, ...]:
    links = data / "pg_tblspc"
    return tuple(sorted(str(link.resolve()) for link in links.iterdir())) if links.is_dir() else ()


def _source(order: Rejoin) -> tuple[MemberFacts, Source]:
    facts = _read(order.primary)
    if not facts.is_primary:
        return facts, Source()
    query = """
        SELECT (SELECT timeline_id FROM pg_control_checkpoint()),
               (SELECT coalesce(sum(size), 0) FROM pg_ls_waldir())::bigint,
               (SELECT coalesce(sum(pg_database_size(oid)), 0) FROM pg_database)::bigint,
               (SELECT coalesce(array_agg(pg_tablespace_location(oid) ORDER BY 1), '{}') FROM pg_tablespace
                 WHERE pg_tablespace_location(oid) <> ''),
               (SELECT min(right(name, 16)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$')"""
    with connect(order) as connection:
        row = connection.execute(query).fetchone()
    if row is None:
        return facts, Source()
    return facts, Source(row[0], row[1], row[2], tuple(sorted(row[3])), row[4])


def _read(place: Target) -> MemberFacts:
    return read_remote(place.name, place.address, place.port, place.conninfo)


def _act(order: Rejoin, plan: RejoinPlan, target: MemberFacts) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if plan.stop_first and target.state == "running":
        stop_instance(order.instance)
    if plan.fork is not None and plan.fork_timeline is not None and target.state != "absent":
        result["lost"] = save_lost(order, plan.fork_timeline, plan.fork).to_dict()
    _make_slot(order)
    if plan.action == "rewind":
        try:
            rewind(order, plan)
        except OperationFailed as error:
            if plan.fallback != "clone":
                raise
            result |= {"action": "clone", "rewind_failed": str(error)}
            _clone(order)
    elif plan.action == "clone":
        _clone(order)
    if plan.action == "follow":
        with order.instance.connect() as connection:
            configure_session(connection, _following(order))
    else:
        _start_as_standby(order)
    return result


def _following(order: Rejoin) -> dict[str, str | None]:
    return {"primary_conninfo": order.streaming, "primary_slot_name": order.slot or ""}


def _make_slot(order: Rejoin) -> None:
    """So that the primary keeps what the member needs, from now on."""
    if order.slot is None:
        return
    query = """
        SELECT pg_create_physical_replication_slot(%s, true)
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s)"""
    with connect(order) as connection:
        connection.execute(query, (order.slot, order.slot))


def _clone(order: Rejoin) -> None:
    """A new copy beside the old directory, which is kept as `.old-<time>`."""
    instance = order.instance
    source = order.clone_from or CloneSource(
        order.primary.address, order.primary.port, sslrootcert=libpq.FLEET_CA, passfile=libpq.FLEET_PASSFILE
    )
    owner = instance.owner_uid
    request = CloneRequest(
        data_directory=os.path.realpath(instance.data_directory),
        version=instance.version,
        source=source,
        member=order.name,
        bin_directory=str(instance.binaries),
        slot=order.slot,
        owner=pwd.getpwuid(owner).pw_name if owner is not None else "postgres",
        replace=True,
    )
    keep_configuration(order)
    clone_run.clone(request)
    put_back(order)
    order.mark.unlink(missing_ok=True)


def _start_as_standby(order: Rejoin) -> None:
    """Write whom it follows, take the fence away, start."""
    # A killed run may have come as far as the source's configuration.
    put_back(order)
    instance, data = order.instance, order.instance.data_directory
    conf = data / "postgresql.auto.conf"
    settings = {name: value for name, value in _following(order).items() if value is not None}
    stat = conf.stat() if conf.exists() else data.stat()
    conf.write_text(auto_conf(conf.read_text() if conf.exists() else "", settings))
    os.chown(conf, stat.st_uid, stat.st_gid)
    LocalPrimary(instance).write_standby_signal()
    mask(instance, False)
    try:
        start_server(instance, order.timeout)
    except FleetError as error:
        raise OperationFailed(
            f"it does not start as a standby: {error}",
            host=order.name,
            remedy="Read its log. Running this again with -e fleet_rejoin_method=clone makes a new copy.",
        ) from error
    mark_file(order.state_directory).unlink(missing_ok=True)


def _prove(order: Rejoin) -> dict[str, Any]:
    """It streams and has replayed (a delayed replica: received) a position that the primary reached after all this."""
    with connect(order) as connection:
        row = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
    target = Lsn.parse(row[0]) if row else Lsn(0)
    deadline = time.monotonic() + order.timeout
    while True:
        facts = read_instance(order.instance, order.address).member
        streams = facts.receiver is not None and facts.receiver.status == "streaming"
        reached = facts.receive_lsn if facts.apply_delay_seconds else facts.replay_lsn
        if streams and reached is not None and reached >= target:
            break
        if time.monotonic() >= deadline:
            what = "receive" if facts.apply_delay_seconds else "replay"
            raise OperationFailed(
                f"after {order.timeout:g} s it does not stream from {order.primary.name} and {what} {target} "
                f"({facts.error or f'it is {facts.state}'})",
                host=order.name,
                remedy="Read its log; if it loops on a timeline, run again with -e fleet_rejoin_method=clone.",
            )
        time.sleep(0.05)
    dropped = _drop_stale_slots(order)
    return {
        "streaming": True,
        "received": None if facts.receive_lsn is None else str(facts.receive_lsn),
        "replayed": None if facts.replay_lsn is None else str(facts.replay_lsn),
        "timeline": facts.timeline,
        "dropped_slots": dropped,
    }


def _drop_stale_slots(order: Rejoin) -> list[str]:
    """Slots of its time as primary would keep write-ahead log for ever."""
    with order.instance.connect() as connection:
        return [row[0] for row in connection.execute(STALE_SLOTS, (list(order.member_slots),)).fetchall()]


def consent_of(params: Mapping[str, Any], member: str) -> Consent:
    """The operator's words; each counts only where it names this member."""
    return Consent(
        stop_primary=params["stop_primary"] == member,
        replace_data=params["replace"] == member,
        rewind=params["method"] != "clone",
    )
