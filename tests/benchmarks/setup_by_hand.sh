#!/bin/bash
# The work of playbooks/setup.yml for one cluster on bare Debian 13 hosts, done by hand: plain shell over SSH, the hosts in
# parallel wherever they do not wait for each other. bench_setup.py times both and compares what they leave on the hosts.
#
#   setup_by_hand.sh DIRECTORY SSH_CONFIG NAME=ADDRESS...
#
# The first host becomes the primary, the others replicas; every host has a PgBouncer. DIRECTORY keeps passwords, CA and
# certificates; SSH_CONFIG (ssh -F) says how to log in as root.
set -euo pipefail

directory=$1 ssh_config=$2
shift 2
names=() && declare -A address
for host in "$@"; do
  names+=("${host%%=*}") && address[${host%%=*}]=${host#*=}
done
primary=${names[0]} replicas=("${names[@]:1}")

# on HOST: runs the script on standard input as root on the host.
on() { ssh -F "$ssh_config" "${address[$1]}" bash -euo pipefail; }

# together FUNCTION HOST...: calls the function for each host at the same time; fails when one fails.
together() {
  local pids=() function=$1 host
  shift
  for host in "$@"; do "$function" "$host" & pids+=($!); done
  for pid in "${pids[@]}"; do wait "$pid"; done
}

secret() { cat "$directory/$1"; }

# --- Passwords, CA and certificates, here on the controller ----------------------------------------------------------------
umask 077
mkdir -p "$directory"
for role in fleet_replication fleet_operator fleet_monitor fleet_pooler orders_app orders_read; do
  openssl rand -hex 16 > "$directory/$role"
done
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 7300 -subj '/CN=fleet CA' \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
  -keyout "$directory/ca.key" -out "$directory/ca.crt" 2> /dev/null
for name in "${names[@]}"; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 825 -subj "/CN=$name" \
    -CA "$directory/ca.crt" -CAkey "$directory/ca.key" -addext basicConstraints=CA:FALSE \
    -addext "subjectAltName=DNS:$name,IP:${address[$name]}" -addext extendedKeyUsage=serverAuth,clientAuth \
    -keyout "$directory/$name.key" -out "$directory/$name.crt" 2> /dev/null
done

# --- Packages, certificates and passwords, on all hosts at once ------------------------------------------------------------
install_host() {
  on "$1" << END
mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --yes --no-install-recommends postgresql-17 pgbouncer python3-psycopg acl > /dev/null
install -d /etc/dbops-fleet
cd /etc/dbops-fleet
cat > ca.crt << 'FILE'
$(secret ca.crt)
FILE
install -m 644 /dev/null server.crt
cat > server.crt << 'FILE'
$(secret "$1.crt")
FILE
install -m 600 -o postgres -g postgres /dev/null server.key
cat > server.key << 'FILE'
$(secret "$1.key")
FILE
install -m 600 -o postgres -g postgres /dev/null pgpass
cat > pgpass << 'FILE'
*:*:*:fleet_replication:$(secret fleet_replication)
*:*:*:fleet_operator:$(secret fleet_operator)
FILE
install -m 644 server.crt pooler.crt
install -m 600 -o postgres -g postgres server.key pooler.key
END
}

# --- Settings, log-in rules, and the start ---------------------------------------------------------------------------------
configure_and_start() {
  on "$1" << END
cd /etc/postgresql/17/main
install -d -o postgres -g postgres conf.d
cat > conf.d/50-fleet.conf << 'FILE'
$(sed "s,@NAME@,$1," "$(dirname "$0")/setup_by_hand.conf")
FILE
cat > pg_hba.conf << 'FILE'
local   all         postgres                          peer map=fleet
local   replication postgres                          peer map=fleet
local   all         all                               scram-sha-256
host    all         postgres                  all     reject
hostssl replication fleet_replication         samenet scram-sha-256
hostssl replication fleet_operator            samenet scram-sha-256
hostssl postgres    fleet_operator            samenet scram-sha-256
hostssl all         fleet_monitor             samenet scram-sha-256
hostssl all         fleet_pooler              samenet scram-sha-256
host    all         fleet_replication,fleet_operator,fleet_monitor,fleet_pooler all reject
hostssl all         all                       samenet scram-sha-256
host    all         all                       all     reject
host    replication all                       all     reject
FILE
cat > pg_ident.conf << 'FILE'
fleet postgres postgres
fleet root     postgres
FILE
systemctl start postgresql@17-main
END
}

make_primary() {
  on "$1" << 'END'
pg_createcluster --port=5432 --pgoption=include_dir=conf.d 17 main -- --data-checksums --locale=C.UTF-8 --encoding=UTF8 > /dev/null
END
  configure_and_start "$1"
}

# Roles, database, extension, privileges. SQL on standard input: passwords are in no argument.
make_objects() {
  on "$primary" << END
psql --username postgres --no-psqlrc --quiet --set ON_ERROR_STOP=1 << 'SQL'
CREATE ROLE fleet_replication LOGIN REPLICATION PASSWORD '$(secret fleet_replication)';
CREATE ROLE fleet_operator    LOGIN REPLICATION PASSWORD '$(secret fleet_operator)';
CREATE ROLE fleet_monitor     LOGIN PASSWORD '$(secret fleet_monitor)';
CREATE ROLE fleet_pooler      LOGIN PASSWORD '$(secret fleet_pooler)';
CREATE ROLE orders_app        LOGIN PASSWORD '$(secret orders_app)';
CREATE ROLE orders_read       LOGIN PASSWORD '$(secret orders_read)';
CREATE DATABASE orders OWNER orders_app;
GRANT pg_monitor TO fleet_monitor, fleet_operator;
GRANT pg_checkpoint, pg_signal_backend TO fleet_operator;
GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer), pg_reload_conf(), pg_hba_file_rules(), pg_ls_dir(text, boolean, boolean),
  pg_stat_file(text, boolean), pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO fleet_operator;
GRANT SELECT ON pg_hba_file_rules TO fleet_operator;
GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, primary_slot_name, synchronous_standby_names, wal_retrieve_retry_interval,
  synchronized_standby_slots TO fleet_operator;
\connect orders
CREATE EXTENSION pg_stat_statements;
REVOKE CONNECT, TEMPORARY ON DATABASE orders FROM PUBLIC;
GRANT CONNECT ON DATABASE orders TO orders_read, fleet_pooler, fleet_monitor;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO orders_read;
ALTER DEFAULT PRIVILEGES FOR ROLE orders_app IN SCHEMA public GRANT SELECT ON TABLES TO orders_read;
ALTER DEFAULT PRIVILEGES FOR ROLE orders_app IN SCHEMA public GRANT SELECT ON SEQUENCES TO orders_read;
CREATE SCHEMA fleet;
GRANT USAGE ON SCHEMA fleet TO fleet_pooler, orders_app, orders_read;
CREATE FUNCTION fleet.pooler_lookup(username text) RETURNS TABLE (usename text, passwd text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
  AS 'SELECT rolname::text, rolpassword FROM pg_authid WHERE rolname = username AND rolcanlogin AND NOT rolsuper
      AND NOT rolreplication AND rolname <> ''fleet_pooler'' AND (rolvaliduntil IS NULL OR rolvaliduntil > now())';
REVOKE ALL ON FUNCTION fleet.pooler_lookup(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION fleet.pooler_lookup(text) TO fleet_pooler;
CREATE TABLE fleet.proof (pooler text PRIMARY KEY, token text NOT NULL, written timestamptz NOT NULL DEFAULT now());
GRANT SELECT, INSERT, UPDATE ON fleet.proof TO orders_app;
GRANT SELECT ON fleet.proof TO orders_read;
SQL
END
}

# --- Replicas --------------------------------------------------------------------------------------------------------------
# The copy is checked against its manifest, as the playbook does, and pg_createcluster adopts it: it wants to find the
# configuration files in the data directory.
clone_replica() {
  on "$1" << END
data=/var/lib/postgresql/17/main
install -d -m 700 -o postgres -g postgres \$data
runuser -u postgres -- pg_basebackup --pgdata \$data --write-recovery-conf --create-slot --slot $1 --checkpoint fast --dbname \
  'host=${address[$primary]} user=fleet_replication sslmode=verify-full sslrootcert=/etc/dbops-fleet/ca.crt passfile=/etc/dbops-fleet/pgpass application_name=$1'
runuser -u postgres -- /usr/lib/postgresql/17/bin/pg_verifybackup --quiet \$data
for file in postgresql.conf pg_hba.conf pg_ident.conf; do
  install -m 600 -o postgres -g postgres /usr/share/postgresql/17/\$file.sample \$data/\$file
done
pg_createcluster --port=5432 --pgoption=include_dir=conf.d 17 main > /dev/null
END
  configure_and_start "$1"
}

# --- PgBouncer -------------------------------------------------------------------------------------------------------------
start_pgbouncer() {
  on "$1" << END
cd /etc/pgbouncer
cat > pgbouncer.ini << 'FILE'
[databases]
orders = host=${address[$primary]} dbname=orders port=5432
orders_ro = host=$(for name in "${replicas[@]}"; do echo "${address[$name]}"; done | paste -sd,) dbname=orders port=5432
$(cat "$(dirname "$0")/setup_by_hand.ini")
FILE
cat > userlist.txt << 'FILE'
"fleet_pooler" "$(secret fleet_pooler)"
"fleet_operator" "$(secret fleet_operator)"
"fleet_monitor" "$(secret fleet_monitor)"
FILE
chown postgres:postgres pgbouncer.ini userlist.txt
chmod 640 pgbouncer.ini userlist.txt
mkdir -p /etc/systemd/system/pgbouncer.service.d
printf '[Service]\nLimitNOFILE=4096\nRestart=on-failure\nRestartSec=1\nTimeoutStopSec=20\n' \
  > /etc/systemd/system/pgbouncer.service.d/fleet.conf
systemctl daemon-reload
systemctl restart pgbouncer
END
}

# --- Proof: a row written through each pooler is read on every replica ------------------------------------------------------
write_through_pooler() {
  on "$1" << END
export PGPASSWORD='$(secret orders_app)'
psql --no-psqlrc --quiet --dbname \
  'host=${address[$1]} port=6432 user=orders_app dbname=orders sslmode=verify-full sslrootcert=/etc/dbops-fleet/ca.crt' \
  --command "INSERT INTO fleet.proof (pooler, token) VALUES ('$1', pg_current_wal_insert_lsn())"
END
}

read_on_replica() {
  on "$1" << END
for attempt in \$(seq 60); do
  rows=\$(psql --username postgres --dbname orders --no-psqlrc --tuples-only --no-align --command 'SELECT count(*) FROM fleet.proof')
  [ "\$rows" = ${#names[@]} ] && exit 0
  sleep 0.5
done
echo "$1: \$rows of ${#names[@]} rows arrived" >&2
exit 1
END
}

together install_host "${names[@]}"
make_primary "$primary"
make_objects
together clone_replica "${replicas[@]}"
together start_pgbouncer "${names[@]}"
together write_through_pooler "${names[@]}"
together read_on_replica "${replicas[@]}"
echo "${names[*]}: set up"
