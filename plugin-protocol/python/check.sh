#!/usr/bin/env bash
# What CI runs for the Python SDK: format, lint, types, tests, and the package in a clean environment.
# GEARWAY_BIN names the gateway's binary; PYTHON another interpreter; CHECK_DIR where the environments go.
set -euo pipefail
cd "$(dirname "$0")"

: "${GEARWAY_BIN:?must name a gateway binary, such as ../../target/debug/gearway}"
GEARWAY_BIN=$(realpath "$GEARWAY_BIN")
export GEARWAY_BIN
work=$(realpath -m "${CHECK_DIR:-../../target/python}")
mkdir -p "$work"

step() { printf '\n==> %s\n' "$*"; }

step "environment"
"${PYTHON:-python3}" -m venv --clear "$work/venv"
bin="$work/venv/bin"
"$bin/pip" install --quiet --disable-pip-version-check --editable '.[test]'

step "ruff"
"$bin/ruff" check . ../../sample-plugins/python
"$bin/ruff" format --check . ../../sample-plugins/python

step "mypy --strict"
"$bin/mypy"

step "pytest"
"$bin/pytest" --quiet -p no:cacheprovider --numprocesses 4

step "pytest, with gearway[fast]"
"$bin/pip" install --quiet --disable-pip-version-check --editable '.[fast]'
"$bin/pytest" --quiet -p no:cacheprovider --numprocesses 4 tests/test_{envelope,vectors,protocol,gateway}.py

step "pytest, without what is in C"
"$bin/pip" uninstall --quiet --disable-pip-version-check --yes httptools pybase64 uvloop
"$bin/pytest" --quiet -p no:cacheprovider --numprocesses 4 tests/test_{envelope,vectors,protocol,gateway}.py

step "package: build the wheel, install it and nothing else, serve the sample"
rm -rf "$work/dist"
"$bin/python" -m build --no-isolation --outdir "$work/dist" .
"${PYTHON:-python3}" -m venv --clear "$work/clean"
"$work/clean/bin/pip" install --quiet --disable-pip-version-check "$work"/dist/gearway-*.whl
GEARWAY_COMMAND="$work/clean/bin/gearway" "$bin/pytest" --quiet -p no:cacheprovider tests/test_gateway.py -k seed_page
