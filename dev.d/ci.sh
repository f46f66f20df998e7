#!/usr/bin/env bash
# everything that must pass before a change lands: lint, the README's two commands, their results
# shellcheck shell=bash

main() {
    local report=$ROOT/target/nextest/default/junit.xml
    rm -f "$report"
    ./dev lint
    cargo run --release -- demo
    ./dev test && return
    if [[ -f $report ]] && have python3; then python3 "$ROOT/dev.d/failures.py" "$report"; fi
    return 1
}
