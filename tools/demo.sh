#!/bin/sh
# The demo: start the platform, train and question a model on it, leave it running.
# Everything it keeps is in $LEPTON_HOME, or in .demo/ of this checkout.
set -eu
cd "$(dirname "$0")/.."
export LEPTON_HOME="${LEPTON_HOME:-$PWD/.demo}"

.venv/bin/leptonai up -d --port 0 --gateway-port 0
.venv/bin/python examples/digits/demo.py

echo
echo "The platform is still running, with all its state in $LEPTON_HOME."
echo "Stop it, and all that it runs, with: make stop"
