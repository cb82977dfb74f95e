#!/bin/sh
# python_version.sh PYTHON: says at once, in one line, when this Python cannot run the project.
python=$1
if ! command -v "$python" >/dev/null 2>&1; then
    echo "make: there is no $python; install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=python3.12" >&2
    exit 2
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
    3.11 | 3.12 | 3.13) ;;
    *)
        echo "make: $python is Python $version, and edgejoule needs 3.11 to 3.13; name one: make PYTHON=python3.12" >&2
        exit 2
        ;;
esac
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "make: $python cannot make environments; install its venv (Debian: apt-get install python3-venv)" >&2
    exit 2
fi
