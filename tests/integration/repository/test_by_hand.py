# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/repository-format.md promises a restore with common tools; this runs the very commands that it prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ansible_collections.dbops.fleet.tests.integration.repository.engine import Engine, clean, directory
from ansible_collections.dbops.fleet.tests.integration.servers import command_prefix

DOCUMENT = Path(__file__).parents[3] / "docs" / "repository-format.md"


@pytest.mark.skipif(shutil.which("jq") is None or shutil.which("zstd") is None, reason="needs jq and zstd")
def test_the_documented_commands_put_a_backup_together(engine: Engine) -> None:
    engine.rows(3)
    (entry,) = engine.json("backup")
    target = directory(engine.servers.root / "to") / "data"
    text = DOCUMENT.read_text()
    step = re.search(r"```sh\n(   SYSTEM=.*?)\n   ```", text, re.S)
    assert step is not None
    script = re.sub(r"SYSTEM=\S+ BACKUP=\S+ TO=\S+", "", step[1])
    plain = re.search(r"`(open_object\(\) \{ zstd.*?\})`", text)
    assert plain is not None
    settings = {
        **clean(),
        "REPOSITORY": engine.settings["repositories"][0]["path"],
        "SYSTEM": entry["system"],
        "BACKUP": entry["id"],
        "TO": str(target),
        "TMPDIR": str(engine.home / "spool"),
    }
    command = [*command_prefix(), "sh", "-euc", f"{plain[1]}\n{script}"]
    subprocess.run(command, check=True, env=settings, cwd=engine.home)
    done = engine.server.run("pg_verifybackup", "--no-parse-wal", str(target))
    assert "successfully verified" in done.stdout
    assert os.stat(target).st_mode & 0o777 == 0o700


@pytest.mark.skipif(shutil.which("jq") is None or shutil.which("zstd") is None, reason="needs jq and zstd")
def test_the_documented_commands_put_a_dump_together(engine: Engine) -> None:
    engine.rows(3)
    engine.server.sql("create table large as select i, md5(i::text) from generate_series(1, 90000) i")
    (entry,) = engine.json("dump", "take")
    (known,) = entry["databases"]
    text = DOCUMENT.read_text()
    step = re.search(r"```sh\nMEMBER=\S+ (.*?) > orders\.dump\n```", text, re.S)
    plain = re.search(r"`(open_object\(\) \{ zstd.*?\})`", text)
    assert step is not None
    assert plain is not None
    settings = {
        **clean(),
        "REPOSITORY": engine.settings["repositories"][0]["path"],
        "SYSTEM": entry["system"],
        "BACKUP": entry["id"],
        "MEMBER": f"dump/{known['oid']}.dump",
        "TMPDIR": str(engine.home / "spool"),
    }
    file = engine.home / "spool" / "by-hand.dump"
    command = [*command_prefix(), "bash", "-euc", f"{plain[1]}\n{step[1]} > {file}"]
    subprocess.run(command, check=True, env=settings, cwd=engine.home)
    assert file.stat().st_size == known["size"] > 1 << 20
    assert "TABLE DATA public large" in engine.server.run("pg_restore", "--list", str(file)).stdout
