#!/bin/sh
# Installs packages of Debian for tests: install_packages.sh WHO PACKAGE..., where WHO is whatever skips without them.
# It changes the machine, so it does so only as root in a container, or when asked with APT=1 (then also with a sudo
# that wants no password); never with APT=0. Else it says what is missing and ends well.
set -u
who=$1
shift

missing=""
for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

in_container() {
    [ -e /.dockerenv ] || [ -e /run/.containerenv ] || [ -n "${container:-}" ] ||
        { command -v systemd-detect-virt >/dev/null && systemd-detect-virt --quiet --container; }
}

if ! command -v apt-get >/dev/null; then
    echo "$who will skip without:$missing (there is no apt-get here)" >&2
    exit 0
fi
asked=${APT:-}
if [ -z "$asked" ] && [ "$(id -u)" = 0 ] && in_container; then asked=1; fi
if [ "$asked" != 1 ]; then
    echo "$who will skip without:$missing (install them with: APT=1 make packages, or apt-get install$missing)" >&2
    exit 0
fi
as_root=""
if [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "$who will skip without:$missing (no right to install; ask for: apt-get install$missing)" >&2
        exit 0
    fi
    as_root="sudo -n"
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
if ! { $as_root apt-get update -qq && $as_root apt-get install -qq -y --no-install-recommends $missing; } >/dev/null; then
    echo "could not install:$missing; $who will skip without them" >&2
fi
exit 0
