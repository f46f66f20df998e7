#!/usr/bin/env bash
# [speed [NAMES] | growth [DIMENSIONS] | hour | quota | micro | instructions]: measures it beside its yardsticks; writes docs/
#
# ./dev bench speed [NAMES] [--pairs N] [--seconds N]; NAMES: accept latency limits drain both embedded small start recovery quota; all without names.
# ./dev bench growth [bots workers bodies rows]: the same load on more of each.
# ./dev bench hour [--minutes N]: 1,000 events a second: memory, tables, nothing lost.
# ./dev bench micro [FILTER]: how long the pure paths of an event take, and the slot script.
# ./dev bench instructions [--accept]: counts their instructions, and fails when one grew.
# shellcheck shell=bash

# shellcheck source=dev.d/services.sh
source "$ROOT/dev.d/services.sh"
# shellcheck source=dev.d/instructions.bash
source "$ROOT/dev.d/instructions.bash"

main() {
    local what=speed
    if [[ ${1:-} =~ ^[a-z] ]]; then
        what=$1
        shift
    fi
    if [[ $what == speed ]]; then
        local python
        python=$(baseline_python) || exit 1
        set -- --python "$python" "$@"
    fi
    case $what in
    micro) micro "$@" ;;
    instructions) instructions "$@" ;;
    *) bench "$what" "$@" ;;
    esac
}

# The Python that the yardstick in loadtest/baseline runs on: a venv of its own for each set of requirements.
baseline_python() {
    local requirements=loadtest/baseline/requirements.txt venv
    venv=$TOOLS/baseline-$(sha256sum $requirements | cut -c 1-12)
    if [[ ! -x $venv/bin/uvicorn ]]; then
        have python3 || install_packages python3 python3-venv
        say "installing the Python baseline from PyPI"
        rm -rf "$venv"
        { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet -r $requirements; } >&2 ||
            { rm -rf "$venv"; die "could not install the Python baseline"; }
    fi
    echo "$venv/bin/python"
}

# For the programs that are started here: where the servers are.
servers() {
    services_locked services_up
    set -a
    # shellcheck source=/dev/null
    source "$STATE/env"
    set +a
}

micro() {
    servers
    cargo bench --quiet --package openclaw-micro --bench paths -- "$@"
}

# bench SUBCOMMAND [ARGUMENTS]: builds what ships and the harness, starts the servers, and runs it.
bench() {
    servers
    say "building the release binaries"
    cargo build --release --quiet --package openclaw --package openclaw-loadtest
    "$(target_folder)/release/openclaw-bench" "$@"
}

target_folder() {
    cargo metadata --no-deps --offline --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}
