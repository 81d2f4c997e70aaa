#!/usr/bin/env bash
# Remakes dev/locked/ from requirements.txt: what `make` installs on Linux x86-64, one file for each
# version of Python, every package pinned and with the hashes of its files.
#
#     dev/lock.sh                 keeps the versions that are there where the ranges allow it
#     dev/lock.sh --upgrade       takes the newest; other options of pip-compile are taken as well
#
# The interpreters are found as python3.10 to python3.13 (pyenv: `pyenv shell 3.10 3.11 3.12 3.13`).
set -euo pipefail
cd "$(dirname "$0")/.."

stop() {
    echo "lock: $*" >&2
    exit 1
}

[ "$(uname -sm)" = "Linux x86_64" ] || stop "what depends on what differs here from Linux x86-64"
for version in 3.10 3.11 3.12 3.13; do
    "python$version" -c "" || stop "no python$version here"
done
for version in 3.10 3.11 3.12 3.13; do
    file=dev/locked/python$version.txt env=output/lock/$version
    echo "-- $file" >&2
    "python$version" -m venv "$env"
    "$env/bin/python" -m pip install --quiet pip==25.3 pip-tools==7.5.3
    # fast-deps reads what a package needs from its wheel's end, and leaves gigabytes where they are.
    CUSTOM_COMPILE_COMMAND="make lock" "$env/bin/python" -m piptools compile --quiet \
        --generate-hashes --allow-unsafe --strip-extras --no-annotate --no-emit-index-url \
        --no-emit-find-links --no-emit-trusted-host --pip-args=--use-feature=fast-deps \
        --output-file "$file" "$@" requirements.txt
    sed -zi 's/ \\\n */ /g' "$file" # a package, a line
done
