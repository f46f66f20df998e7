# shellcheck shell=bash

# free_ports NAME...: sets each variable to a port nobody listens on, below the kernel's range for outgoing connections.
free_ports() {
    local name port
    for name in "$@"; do
        while port=$((RANDOM % 10000 + 20000)) && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
        printf -v "$name" '%s' "$port"
    done
}
