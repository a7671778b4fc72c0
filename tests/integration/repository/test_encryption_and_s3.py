# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same engine with encrypted repositories and with S3."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory
from ansible_collections.dbops.fleet.tests.integration.servers import Servers, command_prefix, free_port, wait_until


@pytest.fixture
def gnupg(servers: Servers) -> Iterator[Path]:
    """A keyring with one key pair, without passphrase."""
    home = directory(servers.root / "gnupg")
    home.chmod(0o700)
    base = [*command_prefix(), "gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    subprocess.run(
        [*base, "--quick-generate-key", "backup@orders.test", "rsa2048", "encr", "never"],
        check=True,
        capture_output=True,
        env=clean(),
    )
    yield home
    subprocess.run(
        [*command_prefix(), "gpgconf", "--homedir", str(home), "--kill", "gpg-agent"], check=False, env=clean()
    )


def place(engine: Engine) -> Path:
    return directory(engine.servers.root / "to") / "data"


def test_an_encrypted_repository_holds_no_plain_text_and_restores(servers: Servers, gnupg: Path) -> None:
    server = servers.primary("db1", archive_mode="on", archive_command="/bin/false")
    repository = {
        "name": "sealed",
        "type": "directory",
        "path": str(directory(servers.root / "repository")),
        "recipients": ["backup@orders.test"],
        "gnupg_home": str(gnupg),
    }
    with Engine(servers, server, [repository]) as engine:
        engine.dbops("init")
        engine.use_archive_command()
        engine.rows(3)
        engine.dbops("backup")
        engine.rows(2)
        name = engine.archive()
        sealed = engine.wal_objects(name)[0]
        assert sealed.name.endswith(".zst.sealed")
        assert sealed.read_bytes().startswith(b"DBOPSS1\n")
        # Another host has no cached data key: it needs the secret key of the recipients.
        for kept in (engine.home / "state" / "keys").rglob("*"):
            if kept.is_file():
                kept.unlink()
        engine.dbops("restore", "--to", str(place(engine)), "--action", "scratch")
        engine.configure(repositories=[{**repository, "gnupg_home": str(directory(servers.root / "empty"))}])
        (servers.root / "empty").chmod(0o700)
        told = engine.dbops("wal", "get", name, str(engine.home / "spool" / "x"), status=126).stderr
        assert "Import a secret key" in told


def public_only(servers: Servers, gnupg: Path) -> Path:
    """A keyring with the public key alone, as a host has that only writes."""
    home = directory(servers.root / "public")
    home.chmod(0o700)
    gpg = [*command_prefix(), "gpg", "--batch", "--quiet", "--homedir"]
    exported = subprocess.run([*gpg, str(gnupg), "--export"], check=True, capture_output=True, env=clean()).stdout
    subprocess.run([*gpg, str(home), "--import"], input=exported, check=True, capture_output=True, env=clean())
    return home


def test_a_host_with_public_keys_alone_takes_a_full_backup_after_another_one(servers: Servers, gnupg: Path) -> None:
    """After a switchover the new primary cannot read what the old one wrote; it must not be without backups then."""
    server = servers.primary("db1", archive_mode="on", archive_command="/bin/false")
    repository = {
        "name": "sealed",
        "type": "directory",
        "path": str(directory(servers.root / "repository")),
        "recipients": ["backup@orders.test"],
        "gnupg_home": str(public_only(servers, gnupg)),
    }
    with Engine(servers, server, [repository]) as engine:
        engine.dbops("init")
        engine.use_archive_command()
        engine.rows(3)
        engine.dbops("backup")
        (second,) = engine.json("backup")
        assert second["incremental"]
        for kept in (engine.home / "state" / "keys").rglob("*"):
            if kept.is_file():
                kept.unlink()  # another host has another data key
        done = engine.dbops("--json", "backup")
        assert "so a full backup is taken" in done.stderr
        (third,) = json.loads(done.stdout)
        assert not third["incremental"]


def test_a_dump_in_an_encrypted_repository_holds_no_plain_text_and_comes_back(servers: Servers, gnupg: Path) -> None:
    server = servers.primary("db1")
    repository = {
        "name": "sealed",
        "type": "directory",
        "path": str(directory(servers.root / "repository")),
        "recipients": ["backup@orders.test"],
        "gnupg_home": str(gnupg),
    }
    with Engine(servers, server, [repository]) as engine:
        engine.dbops("init")
        server.sql("create table secret as select 'SENSITIVE' as word")
        (entry,) = engine.json("dump", "take")
        packs = engine.objects(f"*/backup/{entry['id']}/pack-*")
        assert packs
        assert all(path.read_bytes().startswith(b"DBOPSS1\n") for path in packs)
        assert engine.json("verify", entry["id"])["good"]
        engine.dbops("dump", "restore", "--into", "back")
        assert server.value("select word from secret", dbname="back") == "SENSITIVE"


def test_a_sealed_segment_can_be_opened_by_hand_as_the_documentation_says(servers: Servers, gnupg: Path) -> None:
    server = servers.primary("db1", archive_mode="on", archive_command="/bin/false")
    path = directory(servers.root / "repository")
    repository = {"name": "sealed", "type": "directory", "path": str(path)}
    repository |= {"recipients": ["backup@orders.test"], "gnupg_home": str(gnupg)}  # type: ignore[dict-item]
    with Engine(servers, server, [repository]) as engine:
        engine.dbops("init")
        engine.use_archive_command()
        engine.rows(1)
        name = engine.archive()
        script = r"""
        set -eu
        id=$(dd if="$1" bs=1 skip=8 count=16 status=none)
        iv=$(dd if="$1" bs=1 skip=24 count=16 status=none | od -An -tx1 | tr -d ' \n')
        key=$(gpg --homedir "$2" --batch --quiet --decrypt "$3/keys/$id.gpg" | sed -n 's/^encryption=//p')
        tail -c +41 "$1" | head -c -32 | openssl enc -d -aes-256-ctr -K "$key" -iv "$iv" | zstd -d -q > "$4"
        """
        sealed, result = engine.wal_objects(name)[0], engine.home / "spool" / name
        command = [*command_prefix(), "sh", "-c", script, "sh", str(sealed), str(gnupg), str(path), str(result)]
        subprocess.run(command, check=True, env=clean())
        assert result.read_bytes() == (server.data / "pg_wal" / name).read_bytes()


@pytest.fixture
def s3(servers: Servers) -> Iterator[str]:
    """Endpoint of a moto server with the bucket `backups`: it speaks the protocol, and checks no signatures."""
    port = free_port()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def up() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(up, "moto to listen", 60)
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
        )
        client.create_bucket(Bucket="backups")
        yield endpoint
    finally:
        process.kill()
        process.wait()


def s3_repository(servers: Servers, endpoint: str) -> dict[str, object]:
    credentials = servers.root / "credentials"
    credentials.write_text("[fleet]\naws_access_key_id = x\naws_secret_access_key = y\n")
    return {
        "name": "s3",
        "type": "s3",
        "bucket": "backups",
        "prefix": "fleet/orders",
        "endpoint": endpoint,
        "region": "us-east-1",
        "path_style": True,
        "storage_class": "STANDARD_IA",
        "sse": "AES256",
        "credentials_file": str(credentials),
        "profile": "fleet",
    }


def test_s3_takes_wal_and_backups_and_gives_them_back(servers: Servers, s3: str) -> None:
    server = servers.primary("db1", archive_mode="on", archive_command="/bin/false")
    with Engine(servers, server, [s3_repository(servers, s3)]) as engine:
        engine.dbops("init")
        engine.use_archive_command()
        engine.start_archiver()
        engine.rows(4)
        engine.dbops("backup")
        engine.rows(3)
        engine.archive()
        assert engine.json("wal", "status")["archiving"]
        report = engine.json("restore", "--to", str(place(engine)), "--action", "scratch")
        assert report["ended"] == "at the target"
        assert engine.json("check", "--all")["problems"] == []
        target = engine.home / "spool" / "x"
        engine.dbops("wal", "get", "00000001000000000000FFF0", str(target), status=126)
        engine.dbops("wal", "get", "0000000100000000000000F0", str(target), status=1)


def test_two_repositories_both_have_everything_and_one_alone_can_restore(servers: Servers, s3: str) -> None:
    server = servers.primary("db1", archive_mode="on", archive_command="/bin/false")
    local = {"name": "local", "type": "directory", "path": str(directory(servers.root / "repository"))}
    with Engine(servers, server, [local, s3_repository(servers, s3)]) as engine:
        engine.dbops("init")
        engine.use_archive_command()
        engine.rows(4)
        entries = engine.json("backup")
        assert [entry["repository"] for entry in entries] == ["local", "s3"]
        name = engine.archive()
        (servers.root / "repository").rename(servers.root / "lost")
        target = engine.home / "spool" / "x"
        assert "does not exist" in engine.dbops("wal", "get", name, str(target)).stderr
        report = engine.json("restore", "--to", str(place(engine)), "--action", "scratch")
        assert report["ended"] == "at the target"


def test_wrong_credentials_or_a_missing_bucket_are_told_with_a_remedy(servers: Servers, s3: str) -> None:
    server = servers.primary("db1")
    wrong = {**s3_repository(servers, s3), "bucket": "nobody-made-this"}
    with Engine(servers, server, [wrong]) as engine:
        assert "Create the bucket" in engine.dbops("init", status=1).stderr
        engine.configure(repositories=[{**wrong, "profile": "absent"}])
        assert "profile" in engine.dbops("init", status=1).stderr.lower()
