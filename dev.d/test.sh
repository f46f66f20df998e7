#!/usr/bin/env bash
# [FILTER | faults [ROW]]: all tests (or those whose name contains FILTER; or the whole fault matrix) against real servers
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
    if [[ ${1:-} == faults ]]; then
        fault_matrix "${@:2}"
    elif have cargo-nextest; then
        # nextest runs no documentation tests.
        if (($# == 0)); then cargo test --workspace --doc --quiet; fi
        cargo nextest run "${scope[@]}" "$@"
    else
        say "cargo-nextest is not installed, so there is no time limit per test (cargo install --locked cargo-nextest)"
        cargo test "${scope[@]}" "$@" -- --skip faults::
    fi
}

# fault_matrix [ROW...]: one row at a time (`.config/nextest.toml`), and in the end a line for each number of the matrix.
fault_matrix() {
    have cargo-nextest || die "the fault matrix needs its limits per test: cargo install --locked cargo-nextest"
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || install_packages faketime
    local figures=$ROOT/target/faults/figures status=0
    rm -f "$figures" "$ROOT/target/nextest/faults/junit.xml"
    cargo nextest run --profile faults --package openclaw "$@" || status=$?
    have python3 || install_packages python3
    python3 "$ROOT/dev.d/fault-table.py" "$ROOT/target/nextest/faults/junit.xml" "$figures" $(($# == 0)) || status=$?
    good "$([[ $status == 0 ]] && echo 'every row holds' || echo 'SOME ROWS DO NOT HOLD') ($(elapsed))"
    return "$status"
}
