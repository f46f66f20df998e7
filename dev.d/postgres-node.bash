#!/usr/bin/env bash
# FOLDER PORT [PRIMARY]: runs a private PostgreSQL that lives in FOLDER, on loopback, with the durability of production; makes
# its data when there is none, as a standby of the server on the port PRIMARY when one is named. Used by the crate testkit for
# servers that a test may break. The process becomes the server itself, and ends with the thread that started it.
set -euo pipefail

dir=$1 port=$2 primary=${3:-}

bin=''
for folder in /usr/lib/postgresql/*/bin; do
    # Debian's wrappers in PATH change user, folder and environment.
    if [[ -x $folder/postgres ]]; then bin=$folder; fi
done
[[ -n $bin ]] || { echo "PostgreSQL is not installed" >&2; exit 69; }

# PostgreSQL refuses to run as root.
as_postgres=(setpriv --pdeathsig KILL)
if ((EUID == 0)); then
    chown postgres "$dir"
    as_postgres+=(--reuid postgres --regid postgres --clear-groups)
fi

cd "$dir"
if [[ ! -d data && -n $primary ]]; then
    "${as_postgres[@]}" "$bin/pg_basebackup" -D "$dir/data" -h 127.0.0.1 -p "$primary" -U postgres -R -X stream -c fast
elif [[ ! -d data ]]; then
    "${as_postgres[@]}" "$bin/initdb" -D "$dir/data" -U postgres -A trust --locale=C.UTF-8 -E UTF8
fi
# No unix socket: its path may be at most 107 bytes long, which a deep clone exceeds.
exec "${as_postgres[@]}" "$bin/postgres" -D "$dir/data" -p "$port" -c listen_addresses=127.0.0.1 \
    -c unix_socket_directories= -c max_connections=300
