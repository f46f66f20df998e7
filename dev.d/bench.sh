#!/usr/bin/env bash
# [speed [NAMES] | growth [DIMENSIONS] | hour | quota | micro | instructions | flame]: measures it beside its yardsticks; writes docs/
#
# ./dev bench speed [NAMES] [--pairs N] [--seconds N]; NAMES: accept latency limits drain both busy embedded small slow siege start recovery quota; all without names.
# ./dev bench growth [bots workers bodies rows]: the same load on more of each.
# ./dev bench hour [--minutes N]: 1,000 events a second: memory, tables, nothing lost.
# ./dev bench micro [FILTER]: how long the pure paths of an event take, and the slot script.
# ./dev bench instructions [--accept]: counts their instructions, and fails when one grew.
# ./dev bench flame: where ingest's processor time goes at its peak, as docs/flame-ingest.svg.
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
    flame) flame "$@" ;;
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
    cargo build --profile dist --quiet --package openclaw --package openclaw-loadtest
    "$(target_folder)/dist/openclaw-bench" "$@"
}

# Samples the ingest of `./dev bench speed accept` while it is loaded.
flame() {
    have perf || install_packages linux-perf
    local collapse draw harness folder bench ingest used
    collapse=$(cargo_tool inferno 0.12.8 inferno-collapse-perf) || exit 1
    draw=$(cargo_tool inferno 0.12.8 inferno-flamegraph) || exit 1
    servers
    say "building the release binaries"
    cargo build --profile dist --quiet --package openclaw --package openclaw-loadtest
    harness=$(target_folder)/dist/openclaw-bench folder=$(mktemp -d)
    # What is sampled is slower: no figure for the table.
    "$harness" speed accept --trial --pairs 1 --seconds 12 >"$folder/out" 2>&1 &
    bench=$!
    until ingest=$(pgrep -P $bench -f ' ingest ') && used=$(cut -d ' ' -f 14 "/proc/$ingest/stat") && ((used > 50)); do
        kill -0 $bench 2>/dev/null || die "the benchmark ended early: $(tail -n 1 "$folder/out")"
        sleep 0.2
    done
    say "sampling for 5 s"
    # Debug info and not frame pointers: the allocator and libc are compiled without them.
    perf record --quiet -e cpu-clock -F 499 --call-graph dwarf,16384 -p "$ingest" -o "$folder/data" -- sleep 5
    wait $bench || true
    perf script -i "$folder/data" --no-inline 2>/dev/null | "$collapse" 2>/dev/null |
        "$draw" --title "openclaw ingest, 256 connections" --countname ns --minwidth 0.5 >docs/flame-ingest.svg
    rm -r "$folder"
    good "docs/flame-ingest.svg"
}

target_folder() {
    cargo metadata --no-deps --offline --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}
