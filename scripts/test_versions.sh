#!/usr/bin/env bash
# Run all tests with other versions than the locked ones, in a separate environment (.venv-newest, .venv-oldest):
#   scripts/test_versions.sh newest|oldest [PYTEST ARGUMENTS]
# `oldest` installs the lower bounds in pyproject.toml, `newest` the newest versions in its ranges.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in
  newest) options=(--upgrade) ;;
  oldest) options=(--resolution lowest-direct) ;;
  *) echo "usage: scripts/test_versions.sh newest|oldest [PYTEST ARGUMENTS]" >&2 && exit 2 ;;
esac
venv=${OPTLAB_VENV:-.venv-$1}
shift
[ -e "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv # pip cannot resolve to the lowest versions
"$venv/bin/uv" pip install --python "$venv/bin/python" "${options[@]}" -e ".[dev]"
"$venv/bin/optlab" doctor
exec "$venv/bin/python" -m pytest "$@"
