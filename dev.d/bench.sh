#!/usr/bin/env bash
# [speed | quota] [ARGUMENTS]: measures it on real processes and servers, beside its yardsticks; writes docs/ and target/bench
# shellcheck shell=bash

# shellcheck source=dev.d/services.sh
source "$ROOT/dev.d/services.sh"

main() {
    local what=speed
    if [[ ${1:-} =~ ^[a-z] ]]; then
        what=$1
        shift
    fi
    bench "$what" "$@"
}

# bench SUBCOMMAND [ARGUMENTS]: builds what ships and the harness, starts the servers, and runs it.
bench() {
    services_locked services_up
    set -a
    # shellcheck source=/dev/null
    source "$STATE/env"
    set +a
    say "building the release binaries"
    cargo build --release --quiet --package openclaw --package openclaw-loadtest
    "$(target_folder)/release/openclaw-bench" "$@"
}

target_folder() {
    cargo metadata --no-deps --offline --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}
