#!/usr/bin/env bash
# SHARED SCRIPT [ARGUMENT…]: runs SCRIPT as root on a machine of its own, with systemd as its first process, and ends with its code.
#
# The machine's files are this one's, copied on write: whatever is installed or changed there is gone afterwards. Its network is a
# loopback, its processes and control groups are its own. SHARED is a folder that both see. No container engine is needed.
set -euo pipefail

# Every hierarchy that systemd wants to own: all there is, or on an older kernel's layout its named one and the unified one.
hierarchies() {
    local name
    if [[ -f /sys/fs/cgroup/cgroup.procs ]]; then echo /sys/fs/cgroup; return; fi
    for name in systemd unified; do
        if [[ -d /sys/fs/cgroup/$name ]]; then echo "/sys/fs/cgroup/$name"; fi
    done
}

if [[ ${1:-} != --inside ]]; then
    group=openclaw-machine.$$
    trap 'for place in $(hierarchies); do find "$place/$group" -depth -type d -exec rmdir {} + || true; done' EXIT
    for place in $(hierarchies); do mkdir "$place/$group"; done
    # The machine's processes are born in the groups; this shell stays where it is.
    (
        for place in $(hierarchies); do echo "$BASHPID" >"$place/$group/cgroup.procs"; done
        exec unshare --mount --net --pid --ipc --uts --cgroup --fork --kill-child bash "${BASH_SOURCE[0]}" --inside "$@"
    )
    exit
fi

shared=$2 script=$3
shift 3
memory=$(mktemp -d)
mount -t tmpfs tmpfs "$memory"
root=$memory/root
mkdir "$memory"/{root,changes,work}
mount -t overlay overlay -o "lowerdir=/,upperdir=$memory/changes,workdir=$memory/work" "$root"
for place in run tmp dev; do mount -t tmpfs tmpfs "$root/$place"; done
# This checkout, when it is on another disk than the root, or under what was just hidden.
if [[ $PWD == /tmp/* || $(stat -c %d .) != $(stat -c %d /) ]]; then
    mkdir -p "$root$PWD"
    mount --bind . "$root$PWD"
fi
mkdir "$root/shared"
mount --bind "$shared" "$root/shared"

mount -t proc proc "$root/proc"
# The kernel's settings are everybody's.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
if [[ -f /sys/fs/cgroup/cgroup.procs ]]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root"/sys/fs/cgroup/{systemd,unified}
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
fi
mkdir "$root"/dev/{pts,shm,mqueue,hugepages}
for place in null zero full random urandom tty; do
    touch "$root/dev/$place"
    mount --bind "/dev/$place" "$root/dev/$place"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ip link set lo up

# Of this machine's services none starts there, and nobody tidies up or sets the kernel.
rm -rf "$root"/etc/systemd/system/*
for name in tmpfiles-setup tmpfiles-setup-dev sysctl sysusers udevd udev-trigger update-utmp random-seed; do
    ln -s /dev/null "$root/etc/systemd/system/systemd-$name.service"
done
{
    printf 'exec bash'
    printf ' %q' "$script" "$@"
} >"$root/shared/command"
cat >"$root/etc/systemd/system/script.service" <<END
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
Environment="PATH=$PATH" "HOME=${HOME:-/root}" "ROOT=$PWD"
WorkingDirectory=$PWD
ExecStart=/bin/bash /shared/command
StandardOutput=append:/shared/said
StandardError=append:/shared/said
END
cd "$root"
mkdir -p shared/old
pivot_root . shared/old
umount -l /shared/old
export container=openclaw
exec /lib/systemd/systemd --unit=script.service --log-target=journal --show-status=no
