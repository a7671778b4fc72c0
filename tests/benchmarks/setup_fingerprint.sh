# Run as root on a host: what a set-up left there, as lines that are the same for equal set-ups. Identifiers, passwords and keys
# are left out.
set -euo pipefail
sql() { psql --username postgres --no-psqlrc --tuples-only --no-align --dbname "$1" --command "$2"; }

for package in postgresql-17 pgbouncer python3-psycopg acl; do dpkg-query --show --showformat '${Package} ${Version} ${Status}\n' "$package"; done
stat --format '%n %a %U' /etc/dbops-fleet/* /etc/postgresql/17/main/pg_hba.conf /var/lib/postgresql/17/main
openssl x509 -in /etc/dbops-fleet/server.crt -noout -subject -ext subjectAltName,extendedKeyUsage
openssl verify -CAfile /etc/dbops-fleet/ca.crt /etc/dbops-fleet/server.crt
systemctl is-active postgresql@17-main pgbouncer
systemctl show pgbouncer --property LimitNOFILE,Restart,TimeoutStopUSec
sql postgres "SELECT name, setting FROM pg_settings
              WHERE (sourcefile IS NOT NULL OR name = 'data_checksums') AND name <> 'primary_conninfo' ORDER BY name"
sql postgres "SELECT rule_number, type, database, user_name, address, netmask, auth_method, options FROM pg_hba_file_rules ORDER BY 1"
sql postgres "SELECT map_name, sys_name, pg_username FROM pg_ident_file_mappings ORDER BY map_number"
sql postgres "SELECT rolname, rolsuper, rolreplication, rolcanlogin, rolcreatedb, rolcreaterole, left(rolpassword, 13)
              FROM pg_authid WHERE rolname !~ '^pg_' ORDER BY rolname"
sql postgres "SELECT roleid::regrole, member::regrole FROM pg_auth_members ORDER BY 1::text, 2::text"
sql postgres "SELECT oid::regprocedure FROM pg_proc WHERE has_function_privilege('fleet_operator', oid, 'EXECUTE')
              EXCEPT SELECT oid::regprocedure FROM pg_proc WHERE has_function_privilege('orders_app', oid, 'EXECUTE') ORDER BY 1"
sql postgres "SELECT parname, paracl FROM pg_parameter_acl ORDER BY 1"
sql postgres "SELECT datname, datdba::regrole, datcollate, pg_encoding_to_char(encoding), datacl FROM pg_database ORDER BY 1"
sql orders "SELECT extname FROM pg_extension ORDER BY 1"
sql orders "SELECT nspname, nspacl FROM pg_namespace WHERE nspname IN ('fleet', 'public') ORDER BY 1"
sql orders "SELECT relname, relacl FROM pg_class WHERE relnamespace = 'fleet'::regnamespace ORDER BY 1"
sql orders "SELECT proname, prosecdef, proconfig, proacl FROM pg_proc WHERE pronamespace = 'fleet'::regnamespace"
sql orders "SELECT defaclrole::regrole, defaclobjtype, defaclacl FROM pg_default_acl ORDER BY 1, 2"
sql postgres "SELECT pg_is_in_recovery(), (SELECT slot_name FROM pg_stat_wal_receiver WHERE status = 'streaming')"
sql postgres "SELECT slot_name, active FROM pg_replication_slots ORDER BY 1"
sql postgres "SELECT application_name, state, sync_state, ssl FROM pg_stat_replication JOIN pg_stat_ssl USING (pid) ORDER BY 1"
sql orders "SELECT pooler FROM fleet.proof ORDER BY 1"
console() { runuser --user postgres -- psql -h /var/run/postgresql -p 6432 -U pgbouncer -d pgbouncer -At -c "$1"; }
console 'SHOW DATABASES' | cut -d '|' -f 1-4 | sort
console 'SHOW CONFIG' | cut -d '|' -f 1,2 | grep -v '^conffile' | sort
