#!/usr/bin/env bash
# Train the lessons' runs that are missing and draw every figure: scripts/regenerate_plots.sh [--quick] [--only 1,4]
# Resumable: what is done is not trained again. MNIST is read from OPTLAB_DATA; --quick needs no data. See --help.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/setup.sh" ""  # else it would take this script's arguments for its own
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$venv/bin/python" "$here/lessons" "$@"
