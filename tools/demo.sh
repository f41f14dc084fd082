#!/bin/sh
# The demo: start a platform, train and question a model on it, leave it running.
# Everything it keeps is in $LEPTON_HOME, or in .demo/ of this checkout.
set -eu
cd "$(dirname "$0")/.."
export LEPTON_HOME="${LEPTON_HOME:-$PWD/.demo}"
unset LEPTON_WORKSPACE_URL LEPTON_WORKSPACE_ID LEPTON_WORKSPACE_TOKEN # of some other platform

.venv/bin/leptonai up -d --port 0 --gateway-port 0
.venv/bin/python examples/digits/demo.py
echo "or, in this directory: make stop"
