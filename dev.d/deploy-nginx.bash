# `./dev deploy-check`: nginx with deploy/nginx/nginx.conf, only the addresses changed, in front of two real ingest processes.
# Ports and programs are those of `distributed_runs`, which calls this.
# shellcheck shell=bash disable=SC2154

nginx_start() {
    sed -e "s/ingest-1:9001/127.0.0.1:${ports[1]}/; s/ingest-2:9001/127.0.0.1:${ports[2]}/" \
        -e "s/listen 8080/listen 127.0.0.1:$front/" \
        -e "s|/tmp/nginx.pid|$WORK/nginx.pid|; s|/dev/stdout|$WORK/access.log|; s|/dev/stderr|$WORK/error.log|" \
        deploy/nginx/nginx.conf >"$WORK/nginx.conf"
    nginx -t -q -p "$WORK" -c "$WORK/nginx.conf" -e "$WORK/error.log"
    start nginx nginx -p "$WORK" -c "$WORK/nginx.conf" -e "$WORK/error.log" -g 'daemon off;'
    wait_until 60 curl -fsS -o "$WORK/answer" "http://127.0.0.1:$front/nginx-health"
}

# status PATH: of a request to nginx.
status() { curl -sS -m 5 -o "$WORK/answer" -w '%{http_code}' -X POST -d '{}' "http://127.0.0.1:$front$1"; }

# asked PATH: the port of the node that answered it, or of both, as nginx has written down.
asked() {
    : >"$WORK/access.log"
    status "$1" >"$WORK/status"
    # nginx writes it down after the answer.
    wait_until 60 grep -q upstream= "$WORK/access.log"
    sed -n 's/.* upstream=//p' "$WORK/access.log" | grep -oE '[0-9]+(,|$)' | tr -d '\n'
}

# queued BOT: messages in its queue.
queued() {
    curl -fsS "http://openclaw:openclaw@127.0.0.1:$api/api/queues/%2F/openclaw.v1.bot.$1" | grep -oE '"messages":[0-9]+' |
        head -n 1 | grep -oE '[0-9]+'
}

holds() { [[ $(queued "$1") -ge $2 ]]; }

# Pushes one more, and is told that the queue is full.
refused_as_full() { ! PUSH_ONLY=1 push "$1" 2>"$WORK/refused" && grep -q '503.*queue_full' "$WORK/refused"; }

# Before any worker is there: events go through it into the queue, a bot stays with its node, and who is full is told so.
nginx_to_the_queue() {
    local bot first
    for bot in bot{1..8}; do
        first=$(asked "/webhook/$bot")
        [[ $first == "${ports[1]}" || $first == "${ports[2]}" ]] || die "nginx: $bot was answered by '$first'"
        [[ $(asked "/webhook/$bot") == "$first" ]] || die "nginx: $bot moves between nodes"
        [[ $(asked "/webhook?bot_id=$bot") == "$first" ]] || die "nginx: ?bot_id=$bot goes elsewhere"
        echo "$first"
    done | sort -u >"$WORK/nodes"
    [[ $(wc -l <"$WORK/nodes") == 2 ]] || die "nginx: eight bots, and one node gets them all"
    local path
    for path in /healthz /readyz /metrics; do [[ $(status $path) == 404 ]] || die "nginx: $path is public"; done
    [[ $(status /v1/messages) == 401 ]] || die "nginx: the send API is not to be had"

    PUSH_ONLY=1 push bot2 20 || die "nginx: a push was refused"
    wait_until 60 holds bot2 1
    # A bot that every node refuses (503) is no reason to put the nodes aside for the others.
    wait_until 60 refused_as_full bot8
    for _ in {1..10}; do PUSH_ONLY=1 push bot8 2>"$WORK/refused" || true; done
    for bot in bot{1..7}; do PUSH_ONLY=1 push "$bot" || die "nginx: one full bot takes the others down"; done
    good "nginx: real events go into the queue, one node a bot"
}

# The node of bot1 is killed while it is pushed to; then it cannot store (its RabbitMQ is not there); Feishu notices neither.
nginx_loses_nodes() {
    local lost=1 pushing
    [[ $(asked /webhook/bot1) == "${ports[1]}" ]] || lost=2
    push bot1 150 &
    pushing=$!
    wait_until 60 sent 20
    kill -KILL "${PID[ingest-$lost]}"
    wait "${PID[ingest-$lost]}" 2>"$WORK/answer" || true
    wait "$pushing" || die "nginx: Feishu notices a node that was killed"
    OTHER_PLACES="rabbitmq:5672=127.0.0.1:1"$'\n'"$OTHER_PLACES" ingest_opens "$lost"
    [[ $(asked /webhook/bot1) == "${ports[lost]}" ]] || die "nginx: the node that is back gets nothing"
    push bot1 20 || die "nginx: Feishu notices a node that cannot store"
    grep -q "upstream=127.0.0.1:${ports[lost]}, 127.0.0.1" "$WORK/access.log" || die "that node was not asked"
    kill "${PID[ingest-$lost]}"
    wait "${PID[ingest-$lost]}" || true
    ingest_start "$lost"
    good "nginx: a killed node and one that cannot store are not noticed"
}

sent() { [[ $(grep -c ' 200 ' "$WORK/access.log") -ge $1 ]]; }
