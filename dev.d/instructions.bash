# Counts the instructions of the pure paths (`loadtest/micro`): a guard that a busy machine cannot disturb.
# shellcheck shell=bash

INSTRUCTIONS=$ROOT/loadtest/micro/instructions.txt
# Hash maps are seeded anew in each process, which moves a count by less than 1 %.
MARGIN_PERCENT=3

# instructions [--accept]: fails when a path needs more than the accepted count, or much less, which a new count should keep.
instructions() {
    have valgrind || install_packages valgrind
    say "building the paths"
    cargo build --profile dist --quiet --package openclaw-micro
    COUNTED=$(target_folder)/dist/openclaw-micro
    local path few more accepted now grown=() found=''
    while read -r path few more; do
        now=$((($(counted "$path" "$more") - $(counted "$path" "$few")) / (more - few)))
        found+="$path $now"$'\n'
        accepted=$(sed -n "s/^$path //p" "$INSTRUCTIONS" 2>/dev/null || true)
        printf '%-8s %12d instructions, accepted %s\n' "$path" "$now" "${accepted:-none}"
        if ((now * 100 > ${accepted:-0} * (100 + MARGIN_PERCENT))); then grown+=("$path"); fi
        if ((now * 100 < ${accepted:-0} * (100 - MARGIN_PERCENT))); then
            say "$path needs less: ./dev bench instructions --accept keeps it so"
        fi
    done <<<$'push 10 60\ncodec 10 60\nlanes 1 3'
    if [[ ${1:-} == --accept ]]; then
        printf '%s' "$found" >"$INSTRUCTIONS"
        good "accepted"
    elif ((${#grown[@]})); then
        die "more than $MARGIN_PERCENT % more instructions: ${grown[*]} (on purpose? ./dev bench instructions --accept)"
    else
        good "no path grew by more than $MARGIN_PERCENT %"
    fi
}

# counted PATH TIMES: instructions of the whole process. Two of these differ by the path alone, without start and end.
counted() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$COUNTED" "$1" "$2" 2>&1 |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}
