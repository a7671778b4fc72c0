#!/bin/sh
# Copyright: dbops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# mmdebstrap calls this with the new root directory when all packages are in: packages to a host.
set -eu
root=$1

# The account that inventories use. Its key comes with each host.
chroot "$root" useradd --uid 1000 --create-home --shell /bin/bash fleet
echo 'fleet ALL=(ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/fleet"
chmod 0440 "$root/etc/sudoers.d/fleet"

# Each host gets SSH host keys of its own.
rm -f "$root"/etc/ssh/ssh_host_*
echo 'LANG=C.UTF-8' > "$root/etc/default/locale"

# What would touch the kernel that hosts share with the machine, or start downloads in the middle of a test.
for unit in systemd-modules-load.service systemd-sysctl.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
    apt-daily.timer apt-daily-upgrade.timer; do
    ln -s /dev/null "$root/etc/systemd/system/$unit"
done

# The journal lies on the host's disk, so that it can be read after a power loss; a small one will do.
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=persistent\nSystemMaxUse=64M\n' > "$root/etc/systemd/journald.conf.d/size.conf"

# Debian enables PgBouncer on installation; a baked image serves database hosts too.
if [ -e "$root/usr/sbin/pgbouncer" ]; then
    chroot "$root" systemctl disable pgbouncer.service
fi

# Certificate authorities that the machine trusts beyond Debian's, so that a mirror or proxy behind one works in hosts too.
for certificate in /usr/local/share/ca-certificates/*.crt; do
    [ -e "$certificate" ] || continue
    cp "$certificate" "$root/usr/local/share/ca-certificates/"
done
chroot "$root" update-ca-certificates
