#!/usr/bin/env bash
# Make .venv (if there is none) and install optlab in it. Usage: scripts/setup.sh [EXTRA], e.g. scripts/setup.sh dev
# Sourced by the other scripts, which then find python and optlab in "$venv/bin".
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${OPTLAB_VENV:-$root/.venv}
extra=${1:-}
stamp=$venv/.optlab-${extra:-base}

if [ ! -x "$venv/bin/python" ]; then
  python3 -c 'import sys; sys.exit("optlab needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
  echo "making $venv" >&2
  python3 -m venv "$venv"
fi
if [ ! -e "$stamp" ] || [ "$root/pyproject.toml" -nt "$stamp" ]; then
  echo "installing optlab${extra:+ [$extra]} (torch is large: the first time takes a few minutes)" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root${extra:+[$extra]}" >&2
  touch "$stamp"
fi
