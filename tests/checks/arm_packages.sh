#!/bin/sh
# Installs what `make arm-vm` takes from Debian: the emulated machine, and the tools that make and read its disk. Without
# apt, or without the right to install, it says so and ends well: the test then skips and names what it misses.
set -u
PACKAGES="qemu-system-arm e2fsprogs"

missing=""
for package in $PACKAGES; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

as_root=""
if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="no"; fi
fi
if [ "$as_root" = no ] || ! command -v apt-get >/dev/null; then
    echo "the emulated machine needs:$missing (install them with: apt-get install$missing)" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
if ! { $as_root apt-get update -qq && $as_root apt-get install -qq -y --no-install-recommends $missing; } >/dev/null; then
    echo "could not install:$missing; the emulated machine will skip" >&2
fi
exit 0
