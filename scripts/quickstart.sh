#!/usr/bin/env bash
# From a clone to a trained network and its figures: installs into .venv, trains on scikit-learn's digits.
# Further arguments go to `optlab train`: scripts/quickstart.sh optimizer.lr=0.5
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh ""
exec "$venv/bin/optlab" train configs/quickstart.yaml --force "$@"
