#!/usr/bin/env bash
# formatting, clippy, documentation, licences, unused dependencies, spelling, scripts, deployment files
# shellcheck shell=bash

# Newer versions find new mistakes: raised on purpose, never by themselves.
TYPOS=1.52.0
MACHETE=0.9.2
DENY=0.20.2

main() {
    local failed=()
    check formatting cargo fmt --all --check
    check clippy cargo clippy --workspace --all-targets --quiet -- -D warnings
    # Crate pages link to private modules, which are part of this documentation: it is for people who work on them.
    check documentation env RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' \
        cargo doc --workspace --no-deps --document-private-items --quiet
    check "one TLS provider" one_tls_provider
    check "no orphan source file" no_orphan_source
    check "no test features in what ships" no_test_features
    check "walls between crates" walls
    check "licences and sources" licences
    check "unused dependencies" unused_dependencies
    check spelling spelling
    check scripts scripts
    check "no machine path" no_machine_path
    check "cited pages" citations
    check deployment ./dev deploy-check
    check "what the pages show" ./dev docs-check
    if ((${#failed[@]})); then
        die "lint failed in: $(printf '%s; ' "${failed[@]}")($(elapsed))"
    fi
    good "lint ($(elapsed))"
}

# check NAME COMMAND...: its output is shown only when it fails; all checks run, so that all mistakes show at once.
check() {
    local name=$1 output begin=$SECONDS
    shift
    output=$(mktemp)
    if "$@" >"$output" 2>&1 </dev/null; then
        good "$name ($((SECONDS - begin)) s)"
    else
        cat "$output" >&2
        bad "$name ($((SECONDS - begin)) s)"
        failed+=("$name")
    fi
    rm -f "$output"
}

one_tls_provider() {
    local users
    users=$(cargo tree --workspace --invert aws-lc-sys --edges normal,build,dev 2>&1) || true
    # cargo says that it found no such package: then nobody uses it.
    if [[ $users != *"did not match any packages"* && $users != *"nothing to print"* ]]; then
        echo "$users"
        return 1
    fi
}

# Tests and micro-benchmarks switch these on through crates of their own; the product must not have them.
no_test_features() {
    local features
    features=$(cargo tree --package openclaw --edges normal,features) || return 1
    if [[ $features =~ fail-points|measured ]]; then
        echo "$features" | grep -E "fail-points|measured"
        return 1
    fi
}

# wall CRATE FORBIDDEN: what a crate must not be built with, its tests aside.
wall() {
    local needs forbidden
    needs=$(cargo tree --package "$1" --edges normal --prefix none --format '{p}') || return 1
    forbidden=$(grep -E "^($2) v" <<<"$needs" | sort -u) || true
    if [[ -n $forbidden ]]; then
        echo "$1 is built with"
        echo "$forbidden"
        return 1
    fi
}

# The roles know the seams and no driver; the simulated Feishu knows nobody's innards; ingest never sees the Store.
walls() {
    local crate status=0
    for crate in common sim ingest worker; do
        wall "openclaw-$crate" 'sqlx|lapin|redis|openclaw-backends' || status=1
    done
    wall openclaw-ingest 'reqwest|openclaw-worker' || status=1
    wall openclaw-worker 'openclaw-ingest' || status=1
    if git grep -nE 'openclaw_common::store\b' -- ingest/src; then
        echo "ingest sees the Store"
        status=1
    fi
    return "$status"
}

# A file that no target compiles is dead code that looks alive. What was compiled is in the compiler's dependency files,
# which clippy has just written.
no_orphan_source() {
    local target compiled orphans
    target=$(cargo metadata --no-deps --offline --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    compiled=$(cat "$target"/debug/deps/*.d | grep -ohE '[^ :]+\.rs' | sed "s|^$ROOT/||" | sort -u)
    orphans=$(comm -13 <(echo "$compiled") <(git ls-files '*.rs' | sort -u))
    if [[ -n $orphans ]]; then
        echo "no target compiles:"
        echo "$orphans"
        return 1
    fi
}

# Advisories are left out: their database is in no package registry, and a check that needs more must not block a change.
# `cargo deny check advisories` asks it, with the exceptions in deny.toml.
licences() {
    local deny
    deny=$(cargo_tool cargo-deny "$DENY") || return 1
    "$deny" check --hide-inclusion-graph licenses bans sources
}

unused_dependencies() {
    local machete
    machete=$(cargo_tool cargo-machete "$MACHETE") || return 1
    "$machete" --with-metadata "$ROOT"
}

spelling() {
    local typos
    typos=$(pypi_tool typos "typos==$TYPOS") || return 1
    git ls-files -z | xargs -0 "$typos" --config "$ROOT/typos.toml" --force-exclude
}

scripts() {
    have shellcheck || install_packages shellcheck
    shellcheck -x dev dev.d/*.sh dev.d/*.bash .ci/run
}

citations() {
    have python3 || install_packages python3
    python3 "$ROOT/dev.d/citations.py"
}

# What is committed must work anywhere.
no_machine_path() {
    ! git grep --line-number --extended-regexp '(^|[^A-Za-z0-9_.-])/(work|root|home)/[a-z.]' -- .
}
