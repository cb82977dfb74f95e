#!/bin/sh
# Installs what `make arm-vm` takes from Debian: the emulated machine, and the tools that make and read its disk. Without
# apt, or without the right to install, it says so and ends well: the test then skips and names what it misses.
set -u
PACKAGES="qemu-system-arm e2fsprogs"

# shellcheck disable=SC2086
exec sh "$(dirname "$0")/install_packages.sh" "the emulated machine" $PACKAGES
