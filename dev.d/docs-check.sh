#!/usr/bin/env bash
# runs every command that the pages, deploy/, examples/ and the program's help show, and follows every link, file and address
#
# What cannot be run here stands in dev.d/not-run.txt, with the reason. OPENCLAW_BIN: the program; without it the image's.
# shellcheck shell=bash

# shellcheck source=dev.d/deploy-check.sh
source "$ROOT/dev.d/deploy-check.sh"

main() {
    deploy_programs
    WORK=$(mktemp -d)
    declare -gA PID=()
    trap deploy_stop EXIT
    image
    mkdir "$WORK/shared"
    example_config "$WORK/shared/config"
    cp "$OPENCLAW" "$WORK/shared/openclaw"
    git ls-files -z >"$WORK/shared/files"
    local status=0
    as_root env PATH="$PATH" bash dev.d/machine.bash "$WORK/shared" "$ROOT/dev.d/docs-stage.bash" || status=$?
    cat "$WORK/shared/said" >&2
    if ((status)); then die "the pages are not true"; fi
    good "the pages are true"
}
