#!/usr/bin/env bash
# [FILTER]: all tests (or those whose name contains FILTER) against real servers, which are started when needed
# shellcheck shell=bash

# shellcheck source=dev.d/services.sh
source "$ROOT/dev.d/services.sh"

main() {
    # At home the servers stay up: the next run starts at once. In CI nothing may be left behind.
    if [[ ${CI:-} == true ]]; then trap 'services_locked services_down' EXIT; fi
    services_locked services_up
    set -a
    # shellcheck source=/dev/null
    source "$STATE/env"
    set +a

    # Any argument of the test runner may follow; with a package of its own (-p NAME) that one alone is built.
    local scope=(--workspace) argument
    for argument in "$@"; do
        case $argument in -p* | --package*) scope=() ;; esac
    done
    if have cargo-nextest; then
        # nextest runs no documentation tests.
        if (($# == 0)); then cargo test --workspace --doc --quiet; fi
        cargo nextest run "${scope[@]}" "$@"
    else
        say "cargo-nextest is not installed, so there is no time limit per test (cargo install --locked cargo-nextest)"
        cargo test "${scope[@]}" "$@"
    fi
}
