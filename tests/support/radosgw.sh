#!/bin/bash
# Makes this Debian 13 host an S3 server that can be trusted in tests: radosgw with a monitor and one disk in memory. It checks
# signatures and digests, refuses to overwrite when told so, and encrypts with the client's key. Run it as root on the host:
#   radosgw.sh ACCESS_KEY SECRET_KEY BUCKET...
# Safe to repeat; buckets that exist are emptied. The endpoint is http://HOST:8080, path style, any region; on the host itself also
# https://localhost:8443 with the certificate /etc/ceph/store.crt, for clients that take nothing else.
set -euo pipefail
access_key=$1 secret_key=$2
shift 2
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

if ! dpkg-query --show radosgw >/dev/null 2>&1; then
  apt-get --quiet=2 update
  # Debian's units want a cluster of real disks; ours are below.
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
  apt-get --quiet=2 --no-install-recommends install ceph-mon ceph-osd radosgw python3-boto3 openssl >/dev/null
  rm /usr/sbin/policy-rc.d
fi

# Some kinds of containers have no /run/ceph, and packages make none where no unit was started.
install --directory --owner=ceph --group=ceph /run/ceph /var/lib/ceph/mon/ceph-a /var/lib/ceph/osd/ceph-0 /var/lib/ceph/radosgw/store

unit() { # NAME COMMAND...
  systemctl is-active --quiet "$1" && return
  systemctl reset-failed "$1" 2>/dev/null || true
  systemd-run --quiet --unit="$1" --property=LimitNOFILE=8192 "${@:2}"
}

await() { # SECONDS COMMAND...
  local end=$((SECONDS + $1))
  until "${@:2}" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || { echo "gave up on: ${*:2}" >&2; "${@:2}"; return 1; }
    sleep 0.3
  done
}

if [ ! -e /etc/ceph/store-made ]; then
  fsid=$(cat /proc/sys/kernel/random/uuid) disk=$(cat /proc/sys/kernel/random/uuid)
  cat >/etc/ceph/ceph.conf <<END
[global]
fsid = $fsid
mon_host = v2:127.0.0.1:3300/0
ms_bind_msgr1 = false
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
[osd]
osd_objectstore = memstore
memstore_device_bytes = 8589934592
[client.rgw.store]
keyring = /var/lib/ceph/radosgw/store/keyring
rgw_frontends = beast port=8080 ssl_port=8443 ssl_certificate=/etc/ceph/store.crt ssl_private_key=/etc/ceph/store.key
rgw_crypt_require_ssl = false
# What is deleted makes room at once: the disk is memory.
rgw_gc_obj_min_wait = 1
rgw_gc_processor_period = 5
rgw_gc_processor_max_time = 5
END
  cd /etc/ceph
  openssl req -x509 -newkey rsa:2048 -nodes -keyout store.key -out store.crt -days 3650 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost 2>/dev/null
  ceph-authtool --create-keyring mon.keyring --gen-key -n mon. --cap mon 'allow *' >/dev/null
  ceph-authtool --create-keyring ceph.client.admin.keyring --gen-key -n client.admin \
    --cap mon 'allow *' --cap osd 'allow *' >/dev/null
  ceph-authtool mon.keyring --import-keyring ceph.client.admin.keyring >/dev/null
  monmaptool --create --clobber --addv a '[v2:127.0.0.1:3300]' --fsid "$fsid" monmap >/dev/null
  rm -rf /var/lib/ceph/mon/ceph-a/*
  ceph-mon --mkfs -i a --monmap monmap --keyring mon.keyring >/dev/null
  unit store-mon ceph-mon -f -i a
  await 30 ceph --connect-timeout 5 mon stat
  ceph osd new "$disk" >/dev/null
  ceph auth get-or-create osd.0 mon 'allow profile osd' osd 'allow *' -o /var/lib/ceph/osd/ceph-0/keyring
  ceph-osd -i 0 --mkfs --osd-uuid "$disk" >/dev/null 2>&1
  ceph osd crush add osd.0 1 root=default host=store >/dev/null 2>&1
  ceph auth get-or-create client.rgw.store mon 'allow rw' osd 'allow rwx' -o /var/lib/ceph/radosgw/store/keyring
  touch /etc/ceph/store-made
fi

unit store-mon ceph-mon -f -i a
unit store-osd ceph-osd -f -i 0
unit store-radosgw radosgw -f -n client.rgw.store
await 90 python3 -c 'import urllib.request; urllib.request.urlopen("http://127.0.0.1:8080", timeout=3)'

radosgw-admin user info --uid="$access_key" >/dev/null 2>&1 ||
  radosgw-admin user create --uid="$access_key" --display-name="$access_key" --access-key="$access_key" --secret-key="$secret_key" >/dev/null
# Keys from the environment: they are nobody's business in the list of processes.
AWS_ACCESS_KEY_ID=$access_key AWS_SECRET_ACCESS_KEY=$secret_key python3 - "$@" <<'END'
import sys

import boto3

client = boto3.client("s3", endpoint_url="http://127.0.0.1:8080", region_name="us-east-1")
for bucket in sys.argv[1:]:
    client.create_bucket(Bucket=bucket)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=item["Key"])
END
