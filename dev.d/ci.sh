#!/usr/bin/env bash
# everything that must pass before a change lands: lint, then test
# shellcheck shell=bash

main() {
    "$ROOT/dev" lint
    "$ROOT/dev" test
}
