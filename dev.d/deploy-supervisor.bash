# `./dev deploy-check`: Debian's supervisord with Debian's own configuration and deploy/supervisor/openclaw.conf, only the
# paths and ports changed, starts three bots of the example's folder; each answers an event; a stop drains.
# shellcheck shell=bash

supervisor_runs() {
    local home=$WORK/supervisor feishu bot number ports=() metrics=()
    free_ports feishu 'ports[1]' 'ports[2]' 'ports[3]' 'metrics[1]' 'metrics[2]' 'metrics[3]'
    example_config "$home/path/to/config"
    supervisor_config "$home"
    start sim "$OPENCLAW" sim --listen "127.0.0.1:$feishu" --no-limits
    wait_until 60 curl -fsS -o "$WORK/answer" "http://127.0.0.1:$feishu/sim/ledger"

    OPENCLAW_FEISHU__BASE_URL=http://127.0.0.1:$feishu PATH=$WORK/bin:$PATH \
        start supervisord "${AS_OPENCLAW[@]}" supervisord -n -c "$home/supervisord.conf"
    local supervisord=$!
    for number in 1 2 3; do
        bot=bot$number
        wait_until 60 curl -fsS -o "$WORK/answer" "http://127.0.0.1:${ports[number]}/readyz"
        curl -fsS -o "$WORK/answer" "http://127.0.0.1:${metrics[number]}/metrics" || die "supervisor: $bot has no metrics"
        python3 dev.d/push.py "http://127.0.0.1:${ports[number]}/webhook/$bot" \
            "$home/path/to/config/$bot/credentials.yaml" "http://127.0.0.1:$feishu" || die "supervisor: $bot does not answer"
        wait_until 60 grep -qs "success: openclaw-$bot entered RUNNING" "$home/log/supervisord.log"
    done
    supervisor_drains "$home" "$feishu" "${ports[1]}"
    # A mistake in the configuration is tried some times, not for ever: 1, 2, 3, 4 and 5 s apart.
    echo 'frobnicate: true' >"$home/path/to/config/bot2/config.yaml"
    supervisorctl -c "$home/supervisord.conf" start openclaw-bot2 >"$WORK/supervisorctl" || true
    wait_until 60 grep -q 'openclaw-bot2 entered FATAL state' "$home/log/supervisord.log"
    grep -q 'openclaw-bot2 (exit status 64' "$home/log/supervisord.log" || die "supervisor: a mistake does not end with 64"
    grep -q frobnicate "$home/log/openclaw-bot2.log" || die "supervisor: the log does not name the mistake"
    kill "$supervisord"
    wait "$supervisord" || true
    good "Supervisor: three bots answer, a stop drains"
}

# Debian's file and ours, with what they name moved under HOME.
supervisor_config() {
    local home=$1 moves=(-e "s|/path/to/config|$1/path/to/config|; s|/var/log/supervisor|$1/log|" -e "s|/var/run|$1/run|"
        -e "s|/etc/supervisor/conf.d|$1/conf.d|") number
    mkdir -p "$home"/{conf.d,log,run}
    sed "${moves[@]}" /etc/supervisor/supervisord.conf >"$home/supervisord.conf"
    for number in 1 2 3; do
        moves+=(-e "s|--port 900$number |--port ${ports[number]} |; s|--metrics-port 909$number\$|--metrics-port ${metrics[number]}|")
    done
    if ((EUID == 0)); then
        # The file's user need not exist on this machine: supervisord sees a list of users in which it does.
        cat /etc/passwd - <<<"openclaw:x:10001:10001::/:/bin/false" >"$home/passwd"
        chown -R 10001:10001 "$home/path"
        AS_OPENCLAW=(unshare --mount sh -c "mount --bind '$home/passwd' /etc/passwd && exec \"\$@\"" sh)
    else
        say "not root: supervisord runs its programs as you, not as the file's user"
        moves+=(-e '/^user=/d')
        AS_OPENCLAW=()
    fi
    sed "${moves[@]}" deploy/supervisor/openclaw.conf >"$home/conf.d/openclaw.conf"
}

# The platform takes a second over a send; the stop that comes meanwhile waits for it.
supervisor_drains() {
    local home=$1 feishu=$2 port=$3 pushing
    curl -fsS -o "$WORK/answer" -H 'Content-Type: application/json' -d '{"fault":"slow","ms":1500}' \
        "http://127.0.0.1:$feishu/sim/faults"
    python3 dev.d/push.py "http://127.0.0.1:$port/webhook/bot1" "$home/path/to/config/bot1/credentials.yaml" \
        "http://127.0.0.1:$feishu" &
    pushing=$!
    wait_until 60 sends_begun "$feishu"
    supervisorctl -c "$home/supervisord.conf" stop all >"$WORK/supervisorctl" || die "supervisorctl stop: $(cat "$WORK/supervisorctl")"
    grep -qs 'stopped: openclaw-bot1 (exit status 0)' "$home/log/supervisord.log" || die "supervisord did not drain bot1"
    wait "$pushing" || die "supervisor: the stop lost what was being sent"
}

# The rule above has seen a send.
sends_begun() { curl -fsS "http://127.0.0.1:$1/sim/faults" | grep -q '"seen":[1-9]'; }
