#!/usr/bin/env bash
# FOLDER PORT SERVER [SETTING...]: runs a private PgBouncer that lives in FOLDER, on loopback, before the PostgreSQL on the port
# SERVER, in `transaction` mode unless a SETTING (`name = value`) says otherwise. Used by the crate testkit. The process becomes
# PgBouncer itself, and ends with the thread that started it.
set -euo pipefail

dir=$1 port=$2 server=$3
shift 3

bin=$(command -v pgbouncer || echo /usr/sbin/pgbouncer)
[[ -x $bin ]] || { echo "PgBouncer is not installed" >&2; exit 69; }

# PgBouncer refuses to run as root.
as_postgres=(setpriv --pdeathsig KILL)
if ((EUID == 0)); then as_postgres+=(--reuid postgres --regid postgres --clear-groups); fi

cd "$dir"
echo '"postgres" ""' >users
{
    echo '[databases]'
    echo "* = host=127.0.0.1 port=$server"
    echo '[pgbouncer]'
    echo 'listen_addr = 127.0.0.1'
    echo "listen_port = $port"
    echo 'unix_socket_dir ='
    echo 'auth_type = trust'
    echo "auth_file = $dir/users"
    echo 'pool_mode = transaction'
    echo 'max_client_conn = 500'
    for setting in "$@"; do echo "$setting"; done
} >pgbouncer.ini
if ((EUID == 0)); then chown -R postgres "$dir"; fi
exec "${as_postgres[@]}" "$bin" -q "$dir/pgbouncer.ini"
