#!/usr/bin/env bash
# [--minutes N]: random kills of processes and restarts of servers under load; writes docs/reliability.md
# shellcheck shell=bash

# shellcheck source=dev.d/bench.sh
source "$ROOT/dev.d/bench.sh"

main() { bench soak "$@"; }
