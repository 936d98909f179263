#!/bin/sh
# Wheels of this platform into ./dist, tested in clean environments: Linux (Docker), macOS or Windows.
# The platforms and their flags stand in pyproject.toml, [tool.cibuildwheel].
#
#   scripts/build_wheels.sh            all architectures of this machine
#   scripts/build_wheels.sh --local    one wheel with the compiler at hand, no container; not for upload
set -eu
cd "$(dirname "$0")/.."
if [ "${1:-}" = "--local" ]; then
    exec python -m pip wheel --no-deps --wheel-dir dist .
fi
python -m pip install --quiet "cibuildwheel>=3,<4"
exec python -m cibuildwheel --output-dir dist "$@" .
