#!/usr/bin/env bash
# A sweep as a shell loop: every optimizer with every learning rate, two runs at a time.
# It can be rerun after a crash and started several times at once: finished runs are skipped (--skip-existing),
# runs of another process are waited for (--wait), and no two processes train the same run.
#
#   scripts/sweep_optimizers.sh [CONFIG] [KEY=VALUE]...      scripts/sweep_optimizers.sh configs/quickstart.yaml
#
# Environment variables: JOBS=4 (runs at a time), SEEDS="0 1 2", OPTIMIZERS="SGD Muon", RATES="1 0.1".
# Runs are written to runs/<name>/lr=0.1,name=Adam,seed=0. At the end the script prints a table of them.
set -euo pipefail
config=${1:-configs/quickstart.yaml}
shift || true
jobs=${JOBS:-2}

# Exit codes of `optlab train`: 0 done or skipped, 3 diverged (a valid result), others are failures.
one() {
  optlab train "$@" train.threads=1 log.plots=[] --skip-existing --wait --quiet >/dev/null || [ $? -eq 3 ]
}
export -f one

for name in ${OPTIMIZERS:-SGD Adam RMSprop}; do
  for lr in ${RATES:-0.1 0.01 0.001}; do
    for seed in ${SEEDS:-0}; do
      printf '%s\0' "$config" "optimizer.name=$name" "optimizer.lr=$lr" "seed=$seed" "$@" ''
    done
  done
done | xargs -0 -n $((4 + $# + 1)) -P "$jobs" bash -c 'one "${@:1:$#-1}"' _

# Print the best run, then a table with the best runs first.
folder=${OPTLAB_RUNS:-runs}
if command -v jq >/dev/null; then
  optlab runs "$folder" --json | jq -r 'map(select(.val_accuracy != null)) | max_by(.val_accuracy) | "best: \(.run)"'
fi
optlab runs "$folder" --sort=-val_accuracy
