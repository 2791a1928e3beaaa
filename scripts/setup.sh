#!/usr/bin/env bash
# Create .venv if it does not exist and install optlab in it. Usage: scripts/setup.sh [EXTRA], e.g. scripts/setup.sh dev
# The other scripts source this one and use python and optlab from "$venv/bin".
#
# Versions come from requirements.lock or, if pip cannot install these, from the ranges in pyproject.toml.
# A torch that is already installed is kept. OPTLAB_VENV sets another directory than .venv.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${OPTLAB_VENV:-$root/.venv}
extra=${1:-}
stamp=$venv/.optlab-${extra:-base}
own_torch=$venv/.optlab-own-torch # constraints for a torch that was already installed

fail() { echo "error: $*" >&2; exit 1; }
version_of() { "$1" -c 'import sys; print(sys.version.split()[0])' 2>/dev/null; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
other_venv="remove it, or use another directory: OPTLAB_VENV=DIR bash scripts/..."

# Print the first Python on the PATH that is new enough.
find_python() {
  local name
  for name in python3 python python3.14 python3.13 python3.12 python3.11; do
    if is_new_enough "$name"; then echo "$name" && return; fi
  done
  fail "optlab needs Python 3.11 or newer; python3 is $(version_of python3 || version_of python || echo not there)"
}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip_install() { pip install --quiet "$@" -e "$root${extra:+[$extra]}"; }

# Print constraints for an installed torch, including its build (CPU, ROCm ...); nothing if there is none.
installed_torch() {
  "$venv/bin/python" - <<'END'
from importlib import metadata
for name in ("torch", "torchvision"):
    try:
        print(f"{name}=={metadata.version(name)}")
    except metadata.PackageNotFoundError:
        pass
END
}

if [ ! -e "$venv/bin/python" ]; then
  if [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then fail "$venv has no working bin/python; $other_venv"; fi
  python=$(find_python)
  echo "creating $venv with Python $(version_of "$python")" >&2
  if ! "$python" -m venv "$venv" >&2; then
    rm -rf "$venv"
    fail "Python cannot create a virtual environment (on Debian and Ubuntu: install the package python3-venv)"
  fi
elif ! is_new_enough "$venv/bin/python"; then
  fail "$venv has Python $(version_of "$venv/bin/python" || echo '(broken)') and optlab needs 3.11 or newer; $other_venv"
fi

if [ ! -e "$stamp" ] || [ "$root/pyproject.toml" -nt "$stamp" ] || [ "$root/requirements.lock" -nt "$stamp" ]; then
  pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null # uv creates environments without pip
  if ! ls "$venv"/.optlab-* >/dev/null 2>&1; then installed_torch >"$own_torch"; fi
  constraints=$root/requirements.lock
  if [ -s "$own_torch" ]; then
    echo "keeping the installed $(paste -s -d' ' "$own_torch")" >&2
    constraints=$venv/.optlab-constraints
    grep -vE '^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==' "$root/requirements.lock" >"$constraints"
    cat "$own_torch" >>"$constraints"
  fi
  echo "installing optlab${extra:+ [$extra]} (torch is large: the first time takes a few minutes)" >&2
  if ! pip_install -c "$constraints" 2>"$venv/.optlab-pip.log"; then
    reason=$(grep -m1 '^ERROR' "$venv/.optlab-pip.log" || tail -n1 "$venv/.optlab-pip.log")
    echo "the tested versions cannot be installed (${reason#ERROR: }); installing what pyproject.toml allows" >&2
    if [ -s "$own_torch" ]; then pip_install -c "$own_torch" >&2; else pip_install >&2; fi
  fi
  touch "$stamp"
fi
