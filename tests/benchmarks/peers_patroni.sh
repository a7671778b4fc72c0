#!/bin/bash
# Patroni as Debian 13 ships it, set up the way that its README.Debian describes: etcd and Patroni on every database host,
# Debian's template for the configuration with its time limits (ttl 30, loop_wait 10, retry_timeout 10) and pg_rewind
# switched on, HAProxy on the others with the checks of the haproxy.cfg in Patroni's documentation.
# shellcheck source-path=SCRIPTDIR source=peers_common.sh
source "$(dirname "$0")/peers_common.sh"

endpoints=$(for name in "${databases[@]}"; do echo "${address[$name]}:2379"; done | paste -sd,)
members=$(for name in "${databases[@]}"; do echo "$name=http://${address[$name]}:2380"; done | paste -sd,)

install_member() {
  install_packages "$1" postgresql-17 patroni python3-etcd etcd-server etcd-client
  on "$1" << END
# Debian starts an etcd of its own at installation, which is a cluster of one.
systemctl stop etcd
rm -rf /var/lib/etcd/default
cat > /etc/default/etcd << 'FILE'
ETCD_NAME=$1
ETCD_LISTEN_PEER_URLS=http://${address[$1]}:2380
ETCD_LISTEN_CLIENT_URLS=http://${address[$1]}:2379,http://127.0.0.1:2379
ETCD_INITIAL_ADVERTISE_PEER_URLS=http://${address[$1]}:2380
ETCD_ADVERTISE_CLIENT_URLS=http://${address[$1]}:2379
ETCD_INITIAL_CLUSTER=$members
ETCD_INITIAL_CLUSTER_STATE=new
FILE
echo "initdb_options = '--data-checksums'" >> /etc/postgresql-common/createcluster.conf
printf 'etcd3:\n  hosts: $endpoints\n' > /etc/patroni/dcs.yml
# Logins from the network, and pg_rewind with a role of its own.
sed -i -f /dev/stdin /etc/patroni/config.yml.in << 'FILE'
s,^#\( *- host *all *all *@NETWORK@\),\1,
s,^#\( *rewind:\)$,\1,
s,^#\( *username: "rewind"\),\1,
s,^#\( *password: \)"rewind-pass",\1"$(secret rewind)",
s,"rep-pass","$(secret replication)",
FILE
pg_createconfig_patroni --hostip=${address[$1]} --network=$network --port=5432 17 main
systemctl enable --quiet etcd patroni@17-main
END
}

# Starts when most of its members do, so all at once.
start_etcd() { on "$1" <<< "systemctl start etcd"; }

# Patroni's answer on its REST port is what its users ask too.
start_patroni() {
  on "$1" << END
systemctl start patroni@17-main
for attempt in \$(seq 120); do
  python3 -c "import urllib.request; urllib.request.urlopen('http://${address[$1]}:8008/$2', timeout=2)" 2> /dev/null && exit 0
  sleep 0.5
done
echo "$1: Patroni did not become a $2" >&2
journalctl --no-pager --lines 20 --unit patroni@17-main >&2
exit 1
END
}
start_primary() { start_patroni "$1" primary; }
start_replica() { start_patroni "$1" replica; }

start_haproxy() {
  install_packages "$1" haproxy
  on "$1" << END
cat > /etc/haproxy/haproxy.cfg << 'FILE'
global
    maxconn 100

defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s

listen primary
    bind *:5000
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
$(for name in "${databases[@]}"; do echo "    server $name ${address[$name]}:5432 maxconn 100 check port 8008"; done)
FILE
systemctl restart haproxy
END
}

together install_member "${databases[@]}"
together start_etcd "${databases[@]}"
start_primary "$first"
together start_replica "${others[@]}"
together start_haproxy "${poolers[@]}"
make_database
