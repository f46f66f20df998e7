#!/usr/bin/env bash
# [NAME...]: takes each safeguard out of the code in turn (or the named ones) and demands that its test fails
# shellcheck shell=bash

# shellcheck source=dev.d/services.sh
source "$ROOT/dev.d/services.sh"

# The tree that is mutilated, and its own build, kept between mutants and runs.
TREE=$ROOT/target/mutants/tree
BUILD=$ROOT/target/mutants/build

main() {
    services_locked services_up
    set -a
    # shellcheck source=/dev/null
    source "$STATE/env"
    set +a
    copy_tree
    if [[ ! -d $BUILD && -d $ROOT/target/debug ]]; then
        mkdir -p "$BUILD"
        cp -a --reflink=auto "$ROOT/target/debug" "$BUILD/"
    fi

    local only=("$@") survived=() number=0
    all_mutants
    if ((${#survived[@]})); then die "survived: ${survived[*]}"; fi
    ((number)) || die "there is no mutant of that name"
    good "$number mutants, all killed ($(elapsed))"
}

all_mutants() {
    mutant fence-sqlite backends/src/stores/sqlite/apply.rs \
        "WHERE e.fence = i.value ->> 2\";" \
        "WHERE e.fence >= 0\";" \
        common '--test contracts' contracts::store::over_sqlite::of_two_owners_only_the_later_one_can_change_anything

    mutant fence-postgres backends/src/stores/postgres/apply.sql \
        'WHERE e.fence = i.fence' \
        'WHERE e.fence >= 0' \
        common '--test contracts' contracts::store::over_postgres::of_two_owners_only_the_later_one_can_change_anything

    mutant release-of-the-claim ingest/src/accept.rs \
        'cache.release(key, &claim).await' \
        'cache.release(key, "nobody").await' \
        ingest '--test http' http::delivery::what_cannot_be_stored_is_refused_in_time_and_its_re_push_finds_the_way_free

    mutant mark-before-publish ingest/src/accept.rs \
        'let published = timeout(' \
        'cache.finish(key, dedup_ttl).await.ok();
        let published = timeout(' \
        ingest '--test http' http::delivery::what_cannot_be_stored_is_refused_in_time_and_its_re_push_finds_the_way_free

    # The plan is made, its first action sent, and only then is it committed.
    mutant plan-before-send worker/src/process.rs \
        'return Ok(match self.commit_plan(row, &plan).await? {' \
        'return Ok(match None::<End> {' \
        worker --lib model::tests::neither_promise_breaks_in_any_small_play \
        worker/src/process.rs \
        'Sent::Done(outcome) => {' \
        'Sent::Done(outcome) => {
                    if first_send && index == 0 {
                        self.commit_plan(row, plan).await?;
                    }'

    mutant ack-after-row worker/src/attachment/arrivals.rs \
        'receipts.push(delivery.receipt);' \
        'delivery.receipt.ack();
            receipts.push(Receipt::new(|| ()));' \
        worker --lib model::taking_up::a_delivery_is_not_acknowledged_before_its_row_is_committed

    mutant ack-after-outcome worker/src/process.rs \
        'let end = match self.course(&mut work.row, work.started).await {' \
        'if let Some(receipt) = work.receipt.take() {
            receipt.ack();
        }
        let end = match self.course(&mut work.row, work.started).await {' \
        worker --lib model::tests::neither_promise_breaks_in_any_small_play

    mutant one-uuid-an-action worker/src/process.rs \
        '|stored| stored.uuid.clone(),' \
        '|stored| format!("{}{}", stored.uuid, row.fence),' \
        worker --lib model::tests::neither_promise_breaks_in_any_small_play

    mutant uuid-hour worker/src/verdict.rs \
        'Duration::from_secs(50 * 60);' \
        'Duration::from_secs(5000 * 60);' \
        worker --lib model::tests::neither_promise_breaks_in_plays_by_chance

    mutant ambiguous-for-good worker/src/sending.rs \
        'self.clean &= ' \
        'self.clean = ' \
        worker --lib model::tests::neither_promise_breaks_in_plays_by_chance

    mutant key-guard backends/src/stores/sqlite/begin.rs \
        "ON CONFLICT (app_id, key) DO UPDATE SET fence = fence + 1 WHERE state IN ('received', 'planned')" \
        "ON CONFLICT (app_id, key) DO UPDATE SET fence = fence + 1" \
        common '--test contracts' contracts::store::over_sqlite::finished_waiting_and_dead_events_are_settled

    mutant message-after-its-events backends/src/queues/rabbitmq/acks.rs \
        'if *left == 0 {' \
        'if *left < 6 {' \
        common '--test contracts' contracts::queue::rabbitmq::one_event_that_is_out_brings_its_message_back_in_its_place

    mutant message-that-waits-for-its-pace backends/src/queues/rabbitmq/publisher.rs \
        'self.looks.push(' \
        'drop(' \
        common '--test contracts' contracts::queue::rabbitmq::events_that_meet_share_messages_and_are_counted_delivered_and_settled_one_by_one

    mutant replay-guard backends/src/stores/sqlite/dead.rs \
        "WHERE d.resolved_at IS NULL AND e.state = 'dead'\"" \
        "WHERE e.state <> 'done'\"" \
        common '--test contracts' contracts::store::over_sqlite::replays_run_at_the_same_time_have_one_effect
}

# mutant NAME FILE FROM TO PACKAGE TARGET TEST [FILE FROM TO]: one line, `NAME killed by TEST: what it saw`.
mutant() {
    local name=$1 package=$5 target=$6 test=$7
    if ((${#only[@]})) && [[ " ${only[*]} " != *" $name "* ]]; then return; fi
    number=$((number + 1))
    whole "$package" "$target" "$test"
    change "$name" "$2" "$3" "$4"
    if (($# > 7)); then change "$name" "$8" "$9" "${10}"; fi
    local output
    output=$(mktemp)
    if ! tested "$package" "$target" --no-run >"$output" 2>&1; then
        cat "$output" >&2
        die "$name does not compile: the code has moved on"
    fi
    tested "$package" "$target" -- --exact "$test" >"$output" 2>&1 || true
    # A name that fits no test would pass as well.
    if grep -q '^test result: .* 1 failed;' "$output"; then
        # What it saw, so that one that fails for another reason is noticed.
        echo "$name killed by $test: $(grep -m1 -A1 'panicked at' "$output" | tail -n 1)"
    elif grep -q '^test result: .* 1 passed;' "$output"; then
        bad "$name SURVIVED $test"
        survived+=("$name")
    else
        cat "$output" >&2
        die "$name: its test did not run"
    fi
    rm -f "$output"
    copy_tree
}

# whole PACKAGE TARGET TEST: without a mutant the test passes; each is looked at once.
whole() {
    if [[ " $whole " == *" $3 "* ]]; then return; fi
    tested "$1" "$2" -- --exact "$3" 2>&1 | grep '^test result: .* 1 passed;' >/dev/null ||
        die "$3 does not pass without any mutant"
    whole+=" $3"
}
whole=''

# tested PACKAGE TARGET ARGUMENT...
tested() {
    local package=$1 target
    read -ra target <<<"$2"
    (cd "$TREE" && CARGO_TARGET_DIR=$BUILD cargo test --quiet --package "openclaw-$package" "${target[@]}" "${@:3}")
}

# change NAME FILE FROM TO: FROM must stand in FILE exactly once.
change() {
    local text rest
    text=$(<"$TREE/$2")
    rest=${text#*"$3"}
    [[ $rest != "$text" ]] || die "$1: $2 no longer has: $3"
    [[ $rest != *"$3"* ]] || die "$1: $2 has more than once: $3"
    printf '%s\n' "${text%%"$3"*}$4$rest" >"$TREE/$2"
}

# Only what differs is written, so that little is compiled anew.
copy_tree() {
    local file
    mkdir -p "$TREE"
    while IFS= read -r -d '' file; do
        if [[ -f $ROOT/$file ]] && ! cmp -s "$ROOT/$file" "$TREE/$file"; then
            mkdir -p "$TREE/$(dirname "$file")"
            cp "$ROOT/$file" "$TREE/$file"
        fi
    done < <(git -C "$ROOT" ls-files -z --cached --others --exclude-standard)
}
