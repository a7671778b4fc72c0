# What the set-up scripts of the peers share; they source it. Plain shell over SSH:
#
#   peers_patroni.sh DIRECTORY SSH_CONFIG NAME=ADDRESS...
#
# DIRECTORY has the passwords as files, SSH_CONFIG (ssh -F) says how to log in as root. Hosts named pg* are database hosts,
# pool* are what clients log in through.
set -euo pipefail

directory=$1 ssh_config=$2
shift 2
databases=() poolers=() && declare -A address
for host in "$@"; do
  address[${host%%=*}]=${host#*=}
  case $host in pg*) databases+=("${host%%=*}") ;; *) poolers+=("${host%%=*}") ;; esac
done
first=${databases[0]} others=("${databases[@]:1}")
network=${address[$first]%.*}.0/24

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

# install HOST PACKAGE...: Debian's packages.
install_packages() {
  local host=$1
  shift
  on "$host" << END
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --yes --no-install-recommends $* > /dev/null
END
}

# The application's role, database and table, as dbops.fleet makes them. The password is on standard input, in no argument.
make_database() {
  on "$first" << END
cd /
runuser -u postgres -- psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 << 'SQL'
CREATE ROLE orders_app LOGIN PASSWORD '$(secret application)';
CREATE DATABASE orders OWNER orders_app;
\connect orders
SET ROLE orders_app;
CREATE TABLE load (client int, n int);
SQL
END
}
