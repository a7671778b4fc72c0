# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images: one directory tree per Debian release and kind, made from Debian's packages alone, shared by all sets."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from fleet_hosts.catalogue import Catalogue, HostsError, Image
from fleet_hosts.machine import STORE
from fleet_hosts.shell import locked, run, say

IMAGES = STORE / "images"
_CUSTOMIZE = Path(__file__).parent / "customize-image.sh"
# Settings of the machine's apt that decide whether its mirror can be used: proxies, certificates, old signatures.
_APT_SETTINGS = re.compile(r'^Acquire::(https?::.*|Check-Valid-Until|Check-Date) ".+";$', re.IGNORECASE)


def image_directory(image: Image) -> Path:
    """Where the image is or will be."""
    return IMAGES / image.directory_name(_CUSTOMIZE.read_text())


def ensure_images(images: set[Image]) -> None:
    """Build those that are missing, one after the other."""
    if all(image_directory(image).is_dir() for image in images):
        return
    # mmdebstrap inherits the lock: should this run be killed, the next one waits for that orphan before it tidies up.
    with locked(STORE / "images.lock", inherited=True) as lock:
        for leftover in IMAGES.glob("building-*"):
            remove_tree(leftover)
        for image in sorted(images, key=lambda image: (image.suite, image.kind)):
            if not image_directory(image).is_dir():
                _build(image, lock)


def _build(image: Image, lock: int) -> None:
    started = time.monotonic()
    IMAGES.mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(prefix="building-", dir=IMAGES))
    target.chmod(0o755)
    log = STORE / f"build-{image.suite}-{image.kind}.log"
    say(f"building image {image.suite} {image.kind} (half a minute or so; log: {log})")
    command = [
        "mmdebstrap", "--variant=minbase", "--format=directory", f"--include={','.join(image.packages)}",
        *(f"--aptopt={setting}" for setting in _machine_apt_settings()),
        # A PostgreSQL package must not create and start an instance of its own in an image.
        '--essential-hook=mkdir -p "$1/etc/postgresql-common"; '
        'echo "create_main_cluster = false" > "$1/etc/postgresql-common/createcluster.conf"',
        f"--customize-hook={_CUSTOMIZE}",
        image.suite, str(target), *_sources(image.suite),
    ]  # fmt: skip
    if image.kind == "bare":
        command = [argument for argument in command if not argument.startswith("--essential-hook")]
    with log.open("w") as output:
        built = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[lock],
            check=False,
            env=_environment(),
        )
    if built.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        remove_tree(target)
        raise HostsError(f"building the image {image.suite} {image.kind} failed; the end of {log}:\n{tail}")
    target.rename(image_directory(image))
    say(f"image {image.suite} {image.kind} built in {time.monotonic() - started:.0f} s")


def remove_unused(catalogue: Catalogue, in_use: set[Path]) -> None:
    """Remove images that neither the catalogue asks for nor a host stands on."""
    wanted = {
        image_directory(catalogue.image(number, kind)) for number in catalogue.suites for kind in catalogue.packages
    }
    for directory in IMAGES.glob("*"):
        if directory not in wanted | in_use:
            remove_tree(directory)


def remove_tree(path: Path) -> None:
    """rm -rf that unmounts what a killed build left mounted below, and never follows a mount."""
    for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
        target = line.split(" ")[1]
        if target == str(path) or target.startswith(f"{path}/"):
            run(["umount", "--lazy", target], check=False)
    run(["rm", "-rf", "--one-file-system", str(path)])


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "TMPDIR": "/tmp"}


def _machine_apt_settings() -> list[str]:
    """Settings of the machine's apt that its hosts need as well."""
    dump = run(["apt-config", "dump"]).stdout.splitlines()
    settings = [line for line in dump if _APT_SETTINGS.match(line)]
    for scheme in ("http", "https"):
        proxy = os.environ.get(f"{scheme}_proxy")
        if proxy:
            settings.append(f'Acquire::{scheme}::Proxy "{proxy}";')
    return settings


def _sources(suite: str) -> list[str]:
    """apt lines for a suite, from the mirror that the machine itself uses."""
    listing = run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)|$(RELEASE)", "Created-By: Packages"]
    ).stdout
    if "Debian|Debian|" not in listing:
        run(["apt-get", "-q", "-o", "DPkg::Lock::Timeout=600", "update"])  # apt learns origins from downloaded lists
        listing = run(
            ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)|$(RELEASE)", "Created-By: Packages"]
        ).stdout
    return sources_from_indextargets(listing, suite)


def sources_from_indextargets(listing: str, suite: str) -> list[str]:
    """Lines `origin|label|uri|release` of `apt-get indextargets` to apt lines for `suite`; pure.

    Raises HostsError when the machine has no Debian mirror.
    """
    main: str | None = None
    security: str | None = None
    for line in listing.splitlines():
        origin, label, uri, release = line.split("|")
        if (origin, label) == ("Debian", "Debian") and "-" not in release:
            main = main or uri
        elif (origin, label) == ("Debian", "Debian-Security"):
            security = security or uri
    if main is None:
        raise HostsError("this machine's apt sources name no Debian mirror, and hosts are made from Debian's packages")
    lines = [f"deb {main} {suite} main", f"deb {main} {suite}-updates main"]
    if security is not None:
        lines.append(f"deb {security} {suite}-security main")
    return lines


def remove_all() -> None:
    """Remove every image."""
    with locked(STORE / "images.lock"):
        remove_tree(IMAGES)
        for log in STORE.glob("build-*.log"):
            log.unlink()
