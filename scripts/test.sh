#!/usr/bin/env bash
# Set up .venv with the development tools, check style and types, and run the tests.
# Further arguments are passed to pytest: scripts/test.sh tests/config -k merge; -n 2 runs two tests at a time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh dev
"$venv/bin/optlab" doctor
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
exec "$venv/bin/python" -m pytest "$@"
