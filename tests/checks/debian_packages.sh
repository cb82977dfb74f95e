#!/bin/sh
# Installs the Debian packages that some tests use: the compiler of the bridge's firmware, the simulator it runs in,
# its programmer and boot loader, a PostgreSQL server, systemd's tools, and what makes a Debian in a folder. Without
# apt, or without the right to install, it says so and ends well: the tests that miss a package skip and name it.
set -u
PACKAGES="gcc gcc-avr avr-libc binutils-avr libsimavr-dev libelf-dev pkg-config avrdude arduino-core-avr postgresql systemd mmdebstrap"

# shellcheck disable=SC2086
exec sh "$(dirname "$0")/install_packages.sh" "tests" $PACKAGES
