#!/bin/sh
# Installs packages of Debian for tests: install_packages.sh WHO PACKAGE..., where WHO is whatever skips without them.
# Without apt, or without the right to install, it says what is missing and ends well.
set -u
who=$1
shift

missing=""
for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

as_root=""
if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="no"; fi
fi
if [ "$as_root" = no ] || ! command -v apt-get >/dev/null; then
    echo "$who will skip without:$missing (install them with: apt-get install$missing)" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
if ! { $as_root apt-get update -qq && $as_root apt-get install -qq -y --no-install-recommends $missing; } >/dev/null; then
    echo "could not install:$missing; $who will skip without them" >&2
fi
exit 0
