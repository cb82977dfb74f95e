#!/bin/sh
# Installs the Debian packages that some tests use: the compiler of the bridge's firmware, the simulator it runs in,
# its programmer and boot loader, a PostgreSQL server, systemd's tools, and what makes a Debian in a folder. Without
# apt, or without the right to install, it says so and ends well: the tests that miss a package skip and name it.
set -u
PACKAGES="gcc gcc-avr avr-libc binutils-avr libsimavr-dev libelf-dev pkg-config avrdude arduino-core-avr postgresql systemd mmdebstrap"

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
    echo "tests will skip what needs:$missing (install them with: apt-get install$missing)" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
if ! { $as_root apt-get update -qq && $as_root apt-get install -qq -y --no-install-recommends $missing; } >/dev/null; then
    echo "could not install:$missing; the tests that need them will skip" >&2
fi
exit 0
