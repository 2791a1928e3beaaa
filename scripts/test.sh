#!/usr/bin/env bash
# Set up .venv with the development tools, check style and types, and run the tests.
# Further arguments are passed to pytest: scripts/test.sh tests/config -k merge
# Without arguments one test more runs at a time than there are cores, because some wait; at most four.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh dev
"$venv/bin/optlab" doctor
"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
if [ $# -eq 0 ]; then
  processes=$(($(nproc) < 4 ? $(nproc) + 1 : 4))
  set -- --numprocesses="$processes" --dist=worksteal
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # else each process uses all cores
fi
exec "$venv/bin/python" -m pytest "$@"
