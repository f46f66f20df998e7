# `./dev deploy-check`: what Compose and Kubernetes start, started without containers: the same commands, environment, folders
# and health checks, only the addresses and paths changed; nginx in front of two ingest processes; Prometheus over all of them.
# shellcheck shell=bash

distributed_runs() {
    local amqp api rabbit_metrics erlang epmd redis postgres feishu front number
    local ports=() metrics=() home=$WORK/compose
    free_ports amqp api rabbit_metrics erlang epmd redis postgres feishu front
    for number in 1 2 3 4 5 6; do free_ports "ports[$number]" "metrics[$number]"; done
    local deployed=("$PYTHON" "$ROOT/dev.d/deployed.py")
    local node=("$ROOT/dev.d/rabbitmq-node.bash" "$WORK/rabbitmq" "$amqp" "$api" "$rabbit_metrics" "$erlang" "$epmd")
    # Many events in little time: the limits are off.
    export OPENCLAW_FEISHU__BASE_URL=http://127.0.0.1:$feishu OPENCLAW_QUOTA__BOT='"off"' OPENCLAW_QUOTA__CHAT='"off"' \
        OPENCLAW_QUOTA__USER='"off"' OPENCLAW_QUOTA__APP='"off"'
    OTHER_PLACES="rabbitmq:5672=127.0.0.1:$amqp
redis:6379=127.0.0.1:$redis
postgres:5432=127.0.0.1:$postgres
/etc/openclaw=$home/config
127.0.0.1:8080=127.0.0.1:$front
127.0.0.1/9001=127.0.0.1/${ports[1]}"
    export OTHER_PLACES

    compose_folder
    start sim "$OPENCLAW" sim --listen "127.0.0.1:$feishu" --no-limits
    servers_start
    "${deployed[@]}" compose "$WORK/compose.yaml" migrate --as "$OPENCLAW" >"$WORK/migrate.log" 2>&1 || fail migrate "compose: migrate"
    ingest_start 1
    ingest_start 2
    nginx_start
    nginx_to_the_queue
    for number in 1 2; do
        start "worker-$number" "${deployed[@]}" compose "$WORK/compose.yaml" "worker-$number" --as "$OPENCLAW" -- \
            --port "${ports[number + 2]}" --metrics-port "${metrics[number + 2]}"
    done
    push bot1 5 || fail worker-1 "compose: workers do not answer"
    prometheus_start
    health_checks
    good "Compose: its commands, folders and health checks, with real servers"
    nginx_loses_nodes
    prometheus_scrapes
    kubernetes_runs
    unset OTHER_PLACES "${!OPENCLAW_@}"
}

# push BOT [COUNT [PORT]]: through nginx, or straight at a node; fails unless each is answered 200, and once by the bot.
push() {
    python3 dev.d/push.py "http://127.0.0.1:${3:-$front}/webhook/$1" "$home/config/$1/credentials.yaml" \
        "http://127.0.0.1:$feishu" "${2:-1}"
}

# The folder that Compose mounts, with the example's secrets, and enough bots for each of two nodes to have some.
compose_folder() {
    local bot
    mkdir -p "$home"
    cp -r deploy/compose/config "$home/config"
    sed "s|^OPENCLAW_KEY_2026A=.*|OPENCLAW_KEY_2026A=$("$OPENCLAW" keys new)|; s/change-me/openclaw/" \
        deploy/compose/.env.example >"$home/env"
    set -a
    # shellcheck source=/dev/null
    source "$home/env"
    set +a
    for bot in 2 3 4 5 6 7 8; do
        mkdir "$home/config/bot$bot"
        sed "s/\"\${BOT1_APP_ID}\"/cli_$bot/" deploy/compose/config/bot1/credentials.yaml >"$home/config/bot$bot/credentials.yaml"
        cp deploy/compose/config/bot1/config.yaml "$home/config/bot$bot/config.yaml"
    done
    # Full at once, as long as nobody works.
    echo 'message: { queue_size: 1 }' >>"$home/config/bot8/config.yaml"
    docker-compose -f deploy/compose/compose.yaml --env-file "$home/env" config >"$WORK/compose.yaml"
}

# RabbitMQ with Compose's file, Redis with Compose's command, PostgreSQL with Compose's user and database.
servers_start() {
    local psql=(psql -qX "postgres://postgres@127.0.0.1:$postgres/postgres" -c)
    mkdir -p "$WORK"/{rabbitmq,postgres,redis}
    RABBITMQ_MORE_CONFIG=$ROOT/deploy/compose/rabbitmq.conf start rabbitmq "${node[@]}" rabbitmq-server
    start redis "${deployed[@]}" compose "$WORK/compose.yaml" redis -- --port "$redis" --bind 127.0.0.1 --dir "$WORK/redis"
    start postgres "$ROOT/dev.d/postgres-node.bash" "$WORK/postgres" "$postgres"
    wait_until 60 "${psql[@]}" 'CREATE ROLE openclaw LOGIN'
    "${psql[@]}" 'CREATE DATABASE openclaw OWNER openclaw'
    wait_until 90 curl -fsS -o "$WORK/answer" "http://openclaw:openclaw@127.0.0.1:$api/api/health/checks/local-alarms"
    "${node[@]}" rabbitmq-diagnostics -q environment >"$WORK/environment"
    grep -q '{vm_memory_high_watermark,{absolute,"350MB"}}' "$WORK/environment" || die "RabbitMQ did not take Compose's file"
}

# Each service's own check, and the image's.
health_checks() {
    mkdir -p "$WORK/bin"
    printf '#!/bin/sh\nexec %s -p %s "$@"\n' "$(command -v redis-cli)" "$redis" >"$WORK/bin/redis-cli"
    chmod +x "$WORK/bin/redis-cli"
    PATH=$WORK/bin:$PATH wait_until 60 "${deployed[@]}" health "$WORK/compose.yaml" redis
    PGHOST=127.0.0.1 PGPORT=$postgres wait_until 60 "${deployed[@]}" health "$WORK/compose.yaml" postgres
    wait_until 60 "${deployed[@]}" health "$WORK/compose.yaml" rabbitmq --as "${node[@]}" >"$WORK/answer"
    wait_until 60 "${deployed[@]}" health "$WORK/compose.yaml" nginx
    wait_until 60 "${deployed[@]}" image-health deploy/Dockerfile
    if OTHER_PLACES=127.0.0.1/9001=127.0.0.1/1 "${deployed[@]}" image-health deploy/Dockerfile 2>"$WORK/answer"; then
        die "the image's health check is content with a port on which nobody listens"
    fi
}

ingest_opens() {
    start "ingest-$1" "${deployed[@]}" compose "$WORK/compose.yaml" "ingest-$1" --as "$OPENCLAW" -- \
        --port "${ports[$1]}" --metrics-port "${metrics[$1]}"
    wait_until 60 curl -fsS -o "$WORK/answer" "http://127.0.0.1:${ports[$1]}/healthz"
}

ingest_start() {
    ingest_opens "$1"
    wait_until 60 curl -fsS -o "$WORK/answer" "http://127.0.0.1:${ports[$1]}/readyz"
}
