#!/bin/bash
# repmgr as Debian 13 ships it, set up the way that its manual describes for Debian: PostgreSQL by pg_ctlcluster through
# sudo, SSH between the hosts without a password for `standby switchover --siblings-follow`. No repmgrd: it takes no part in
# planned switchovers.
# shellcheck source-path=SCRIPTDIR source=peers_common.sh
source "$(dirname "$0")/peers_common.sh"

[ -e "$directory/ssh" ] || ssh-keygen -q -t ed25519 -N '' -C repmgr -f "$directory/ssh"

install_member() {
  install_packages "$1" postgresql-17 repmgr postgresql-17-repmgr openssh-client rsync sudo
  on "$1" << END
pg_createcluster --port=5432 --pgoption=include_dir=conf.d 17 main -- --data-checksums > /dev/null
install -d -o postgres -g postgres /etc/postgresql/17/main/conf.d
cat > /etc/postgresql/17/main/conf.d/repmgr.conf << 'FILE'
listen_addresses = '*'
wal_log_hints = on
max_wal_senders = 10
max_replication_slots = 10
shared_preload_libraries = 'repmgr'
FILE
cat >> /etc/postgresql/17/main/pg_hba.conf << 'FILE'
host all         all    $network scram-sha-256
host replication repmgr $network scram-sha-256
FILE
cat > /etc/repmgr.conf << 'FILE'
node_id=${1#pg}
node_name='$1'
conninfo='host=${address[$1]} user=repmgr dbname=repmgr connect_timeout=2'
data_directory='/var/lib/postgresql/17/main'
pg_bindir='/usr/lib/postgresql/17/bin'
use_replication_slots=true
service_start_command='sudo pg_ctlcluster 17 main start'
service_stop_command='sudo pg_ctlcluster 17 main stop'
service_restart_command='sudo pg_ctlcluster 17 main restart'
service_reload_command='sudo pg_ctlcluster 17 main reload'
FILE
cat > /etc/sudoers.d/repmgr << 'FILE'
Defaults:postgres !requiretty
postgres ALL = NOPASSWD: /usr/bin/pg_ctlcluster 17 main *
FILE
umask 077
cd /var/lib/postgresql
mkdir -p .ssh
cat > .ssh/id_ed25519 << 'FILE'
$(cat "$directory/ssh")
FILE
cat > .ssh/authorized_keys << 'FILE'
$(cat "$directory/ssh.pub")
FILE
echo 'StrictHostKeyChecking accept-new' > .ssh/config
echo '*:*:*:repmgr:$(secret replication)' > .pgpass
chown -R postgres:postgres .ssh .pgpass
END
}

start_primary() {
  on "$1" << END
cd /
pg_ctlcluster 17 main start
runuser -u postgres -- psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 << 'SQL'
CREATE ROLE repmgr SUPERUSER LOGIN PASSWORD '$(secret replication)';
ALTER ROLE repmgr SET search_path = repmgr, "\$user", public;
CREATE DATABASE repmgr OWNER repmgr;
SQL
runuser -u postgres -- repmgr -f /etc/repmgr.conf primary register
END
}

clone_replica() {
  on "$1" << END
cd /
rm -rf /var/lib/postgresql/17/main
runuser -u postgres -- repmgr -h ${address[$first]} -U repmgr -d repmgr -f /etc/repmgr.conf standby clone --fast-checkpoint
pg_ctlcluster 17 main start
runuser -u postgres -- repmgr -f /etc/repmgr.conf standby register --wait-sync
END
}

# Everybody has to know everybody's host key before the first switchover.
greet_others() {
  on "$1" << END
cd /
for host in $(for name in "${databases[@]}"; do echo "${address[$name]}"; done | paste -sd' '); do runuser -u postgres -- ssh -o BatchMode=yes \$host true; done
END
}

together install_member "${databases[@]}"
start_primary "$first"
together clone_replica "${others[@]}"
together greet_others "${databases[@]}"
make_database
