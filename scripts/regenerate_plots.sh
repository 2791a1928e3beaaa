#!/usr/bin/env bash
# Train the missing runs of the lessons and draw all figures: scripts/regenerate_plots.sh [--quick] [1 4 ...]
# Finished runs are not trained again. MNIST is read from OPTLAB_DATA; --quick needs no download. See --help.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/setup.sh" ""  # without "" setup.sh would read this script's arguments
exec "$venv/bin/optlab" lessons "$@"
