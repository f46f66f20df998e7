#!/usr/bin/env bash
# up | down | status: private RabbitMQ, Redis and PostgreSQL on loopback, for tests
#
# They live in target/services, keep nothing between two `up`s, and are known by their working folder, so that only
# what this script started is ever stopped, even after a crash or a `cargo clean`.
# shellcheck shell=bash

STATE=$ROOT/target/services
SERVICES=(rabbitmq redis postgres)
RABBIT_USER=openclaw
RABBIT_PASSWORD=openclaw
# Unusual, and below the kernel's range for outgoing connections (from 32768), which would otherwise take them at random.
FIRST_PORT=${OPENCLAW_SERVICES_PORT:-17670}
PORTS_NEEDED=20

main() {
    case ${1:-status} in
    up) services_locked services_up ;;
    down) services_locked services_down ;;
    status) services_status ;;
    *) die "usage: ./dev services up|down|status" ;;
    esac
}

# Two `up`s at once (two clones, or two terminals) would choose the same ports: one at a time per user.
services_locked() {
    exec 9>"${TMPDIR:-/tmp}/openclaw-services-$EUID.lock"
    flock -w 150 9 || die "another ./dev services has been busy for more than 2 minutes"
    "$@"
    exec 9>&-
}

services_up() {
    services_programs
    if services_healthy; then
        good "services are up (target/services/env)"
        return
    fi
    services_stop_leftovers
    rm -rf "$STATE"
    services_choose_home
    services_choose_ports
    say "starting RabbitMQ, Redis and PostgreSQL on ports $PORT_BASE-$((PORT_BASE + PORTS_NEEDED - 1))"
    start_rabbitmq
    start_redis
    start_postgres
    wait_for redis 10 redis_answers
    wait_for postgres 30 postgres_answers
    wait_for rabbitmq 90 rabbitmq_answers
    services_write_env
    good "services are up (target/services/env)"
}

services_down() {
    services_load
    services_stop_leftovers
    rm -f "$STATE/env"
    if [[ $HOME_DIR != "$STATE" && $HOME_DIR == */openclaw-services.* ]]; then
        rm -rf "$HOME_DIR"
    fi
    rm -rf "$STATE"
    good "services are down"
}

services_status() {
    services_load
    local service status=0
    for service in "${SERVICES[@]}"; do
        if [[ -n ${PORT_BASE:-} ]] && "${service}_answers"; then
            good "$service, process $(service_pids "$service" | tr '\n' ' ')"
        else
            bad "$service does not answer"
            status=1
        fi
    done
    [[ -f $STATE/env ]] && cat "$STATE/env"
    return "$status"
}

# services_healthy: all three answer on the ports of the last `up`.
services_healthy() {
    services_load
    [[ -f $STATE/env ]] && redis_answers && postgres_answers && rabbitmq_answers
}

# ---- where and on which ports -------------------------------------------------------------------------------------

# Sets HOME_DIR and PORT_BASE of the last `up`, when there was one.
services_load() {
    HOME_DIR=$STATE PORT_BASE=''
    if [[ -f $STATE/place ]]; then
        # shellcheck source=/dev/null
        source "$STATE/place"
    fi
    if [[ -n $PORT_BASE ]]; then services_number_ports; fi
}

# PostgreSQL refuses to run as root and its own user must reach the folder: when it cannot (a clone under root's home),
# everything moves to a folder under the temporary one, and `place` remembers it.
services_choose_home() {
    mkdir -p "$STATE"
    HOME_DIR=$STATE
    if ((EUID == 0)) && ! as_postgres test -x "$STATE"; then
        HOME_DIR=$(mktemp -d "${TMPDIR:-/tmp}/openclaw-services.XXXXXX")
        chmod 755 "$HOME_DIR"
    fi
}

# A whole block of free ports, so that one number names them all.
services_choose_ports() {
    local base port
    for ((base = FIRST_PORT; base < 32000; base += PORTS_NEEDED)); do
        for ((port = base; port < base + PORTS_NEEDED; port++)); do
            if port_open "$port"; then continue 2; fi
        done
        PORT_BASE=$base
        services_number_ports
        printf 'HOME_DIR=%q\nPORT_BASE=%q\n' "$HOME_DIR" "$PORT_BASE" >"$STATE/place"
        return
    done
    die "no free ports from $FIRST_PORT on; set OPENCLAW_SERVICES_PORT"
}

services_number_ports() {
    AMQP_PORT=$PORT_BASE
    API_PORT=$((PORT_BASE + 1))
    RABBIT_METRICS_PORT=$((PORT_BASE + 2))
    ERLANG_PORT=$((PORT_BASE + 3))
    EPMD_PORT=$((PORT_BASE + 4))
    REDIS_PORT=$((PORT_BASE + 5))
    POSTGRES_PORT=$((PORT_BASE + 6))
}

services_write_env() {
    local at=127.0.0.1 user=$RABBIT_USER:$RABBIT_PASSWORD
    cat >"$STATE/env" <<END
OPENCLAW_TEST_AMQP_URL=amqp://$user@$at:$AMQP_PORT/%2f
OPENCLAW_TEST_RABBITMQ_API=http://$user@$at:$API_PORT
OPENCLAW_TEST_REDIS_URL=redis://$at:$REDIS_PORT
OPENCLAW_TEST_DATABASE_URL=postgres://postgres@$at:$POSTGRES_PORT/postgres
OPENCLAW_TEST_NODES=$HOME_DIR/rabbitmq/nodes
OPENCLAW_TEST_EPMD_PORT=$EPMD_PORT
END
    mkdir -p "$HOME_DIR/rabbitmq/nodes"
}

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# ---- programs -----------------------------------------------------------------------------------------------------

services_programs() {
    local missing=()
    find_programs
    [[ -n $RABBIT_BIN ]] || missing+=(rabbitmq-server)
    [[ -n $REDIS_SERVER ]] || missing+=(redis-server)
    [[ -n $POSTGRES_BIN ]] || missing+=(postgresql)
    # Not started here: tests start their own (`dev.d/pgbouncer-node.bash`).
    [[ -n $PGBOUNCER ]] || missing+=(pgbouncer)
    if ((${#missing[@]})); then
        install_packages "${missing[@]}"
        find_programs
    fi
    [[ -n $RABBIT_BIN && -n $REDIS_SERVER && -n $POSTGRES_BIN && -n $PGBOUNCER ]] ||
        die "installed, but not found: RabbitMQ '$RABBIT_BIN', Redis '$REDIS_SERVER', PostgreSQL '$POSTGRES_BIN'," \
            "PgBouncer '$PGBOUNCER'"
}

# RabbitMQ's and PostgreSQL's own programs: Debian's wrappers in PATH change user, folder and environment.
find_programs() {
    RABBIT_BIN=$(newest_folder_with rabbitmq-server /usr/lib/rabbitmq/bin /usr/lib/rabbitmq/lib/*/sbin)
    POSTGRES_BIN=$(newest_folder_with initdb /usr/lib/postgresql/*/bin)
    REDIS_SERVER=$(command -v redis-server || true)
    PGBOUNCER=$(PATH=$PATH:/usr/sbin command -v pgbouncer || true)
}

newest_folder_with() {
    local program=$1 folder
    shift
    for folder in "$@"; do
        if [[ -x $folder/$program ]]; then echo "$folder"; fi
    done | sort -V | tail -n 1
}

as_postgres() {
    if ((EUID == 0)); then runuser -u postgres -- "$@"; else "$@"; fi
}

# ---- starting -----------------------------------------------------------------------------------------------------

# Durability as in production: what is measured on these servers should mean something.
start_redis() {
    local dir=$HOME_DIR/redis
    mkdir -p "$dir"
    detached "$dir" "$REDIS_SERVER" --port "$REDIS_PORT" --bind 127.0.0.1 --dir "$dir" --save '' \
        --appendonly yes --appendfsync everysec --maxmemory 512mb --maxmemory-policy noeviction
}

start_postgres() {
    local dir=$HOME_DIR/postgres
    mkdir -p "$dir"
    if ((EUID == 0)); then chown postgres "$dir"; fi
    (cd "$dir" && as_postgres "$POSTGRES_BIN/initdb" -D "$dir/data" -U postgres -A trust --locale=C.UTF-8 -E UTF8) \
        >"$dir/initdb.log" 2>&1 || die "initdb failed, see $dir/initdb.log"
    # No unix socket: its path may be at most 107 bytes long, which a deep clone exceeds.
    (cd "$dir" && as_postgres "$POSTGRES_BIN/pg_ctl" -D "$dir/data" -W -l "$dir/log" \
        -o "-p $POSTGRES_PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300" \
        start) >"$dir/start.log" 2>&1 9>&- || die "PostgreSQL did not start, see $dir/log"
}

start_rabbitmq() {
    local dir=$HOME_DIR/rabbitmq
    mkdir -p "$dir"
    detached "$dir" "$ROOT/dev.d/rabbitmq-node.bash" "$dir" "$AMQP_PORT" "$API_PORT" "$RABBIT_METRICS_PORT" \
        "$ERLANG_PORT" "$EPMD_PORT" rabbitmq-server
}

# detached FOLDER PROGRAM...: in a session of its own, so that Ctrl-C in a test run does not reach it.
detached() {
    local dir=$1
    shift
    (cd "$dir" && exec setsid "$@" </dev/null >"$dir/out" 2>&1 9>&-) 9>&- &
}

# ---- asking -------------------------------------------------------------------------------------------------------

redis_answers() {
    local answer
    answer=$(exchange "$REDIS_PORT" 'PING\r\n') && [[ $answer == +PONG* ]]
}

# A server that is still starting up accepts the connection but not the login: pg_isready knows the difference.
postgres_answers() {
    local bin
    bin=$(newest_folder_with pg_isready /usr/lib/postgresql/*/bin)
    [[ -n $bin ]] && "$bin/pg_isready" -q -h 127.0.0.1 -p "$POSTGRES_PORT" -t 2
}

# The management API comes up last: it asks the broker itself whether it is alive.
rabbitmq_answers() {
    local login answer
    login=$(printf '%s:%s' "$RABBIT_USER" "$RABBIT_PASSWORD" | base64)
    answer=$(exchange "$API_PORT" \
        "GET /api/health/checks/local-alarms HTTP/1.0\\r\\nAuthorization: Basic $login\\r\\n\\r\\n")
    [[ $answer == *' 200 '* ]] && port_open "$AMQP_PORT"
}

# exchange PORT TEXT: sends the text, prints the first line that comes back within two seconds.
exchange() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
        printf '%b' "$2" >&3
        IFS= read -r -t 2 line <&3 && printf '%s\n' "$line"
    ) 2>/dev/null
}

wait_for() {
    local service=$1 seconds=$2 check=$3
    local deadline=$((SECONDS + seconds))
    until "$check"; do
        if ((SECONDS > deadline)); then
            tail -n 30 "$HOME_DIR/$service"/{out,log,log/node.log} >&2 2>/dev/null || true
            die "$service did not answer within $seconds s (logs: $HOME_DIR/$service)"
        fi
        sleep 0.1
    done
}

# ---- stopping -----------------------------------------------------------------------------------------------------

# service_pids SERVICE: processes of ours, by program name and working folder (epmd goes to /, so by its environment).
service_pids() {
    local dir=$HOME_DIR/$1 cwd pid program
    # A process that ends meanwhile makes find complain: no failure.
    { find /proc -maxdepth 2 -path '/proc/[0-9]*/cwd' \( -lname "$dir" -o -lname "$dir/*" -o -lname "$dir (deleted)" \) \
        2>/dev/null || true; } | while read -r cwd; do
        pid=${cwd#/proc/} pid=${pid%/cwd}
        program=$(cat "/proc/$pid/comm" 2>/dev/null) || continue
        case $program in beam.smp | redis-server | postgres | pgbouncer) echo "$pid" ;; esac
    done
    if [[ $1 == rabbitmq ]]; then
        for pid in $(pgrep -x epmd || true); do
            if grep -qzxFs "RABBITMQ_PID_FILE=$dir/pid" "/proc/$pid/environ"; then
                echo "$pid"
            fi
        done
    fi
}

# Asks politely, then insists. What the servers hold is thrown away, so nothing can be damaged.
services_stop_leftovers() {
    local service pids
    for service in "${SERVICES[@]}"; do
        mapfile -t pids < <(service_pids "$service")
        if ((${#pids[@]} == 0)); then continue; fi
        say "stopping $service"
        # PostgreSQL: INT is its fast shutdown, TERM would wait for its clients.
        kill -s "$([[ $service == postgres ]] && echo INT || echo TERM)" "${pids[@]}" 2>/dev/null || true
        if ! gone_within 15 "${pids[@]}"; then
            kill -s KILL "${pids[@]}" 2>/dev/null || true
            gone_within 5 "${pids[@]}" || die "$service (process ${pids[*]}) does not stop"
        fi
    done
}

gone_within() {
    local deadline=$((SECONDS + $1)) pid
    shift
    for pid in "$@"; do
        while [[ -d /proc/$pid ]] && ! grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null; do
            if ((SECONDS > deadline)); then return 1; fi
            sleep 0.1
        done
    done
}
