#!/usr/bin/env bash
# All that is checked of the Node SDK. GEARWAY_BIN must be the path of a gateway's binary.
set -euo pipefail
: "${GEARWAY_BIN:?must be the path of a gateway binary (cargo build --bin gearway)}"
GEARWAY_BIN=$(realpath "$GEARWAY_BIN")
export GEARWAY_BIN
cd "$(dirname "$0")"
(cd ../../sample-plugins/node && npm ci)
npm ci
npm run types
npm test
npm run test:package
