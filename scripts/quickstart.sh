#!/usr/bin/env bash
# Install optlab into .venv, train a network on scikit-learn's digits and draw its figures.
# Further arguments are passed to `optlab train`: scripts/quickstart.sh optimizer.lr=0.5
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh ""
exec "$venv/bin/optlab" train configs/quickstart.yaml --force "$@"
