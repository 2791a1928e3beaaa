#!/usr/bin/env bash
# A sweep as a plain shell loop: every optimizer at every learning rate, two runs at a time.
# Say it again after a crash, or twice at once: what is finished is skipped (--skip-existing), what another
# process trains is waited for (--wait), and no two processes train the same run.
#
#   scripts/sweep_optimizers.sh [CONFIG] [KEY=VALUE]...      scripts/sweep_optimizers.sh configs/quickstart.yaml
#
# JOBS=4 for four at a time, SEEDS="0 1 2" for three seeds, OPTIMIZERS="SGD Muon" and RATES="1 0.1" for others.
# Runs land in runs/<name>/lr=0.1,name=Adam,seed=0; a table of them comes last.
set -euo pipefail
config=${1:-configs/quickstart.yaml}
shift || true
jobs=${JOBS:-2}

# Exit codes of `optlab train`: 0 done or skipped, 3 diverged (an outcome like any other), others are failures.
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

# What came of it, best first, by program and by eye.
folder=${OPTLAB_RUNS:-runs}
if command -v jq >/dev/null; then
  optlab runs "$folder" --json | jq -r 'map(select(.val_accuracy != null)) | max_by(.val_accuracy) | "best: \(.run)"'
fi
optlab runs "$folder" --sort=-val_accuracy
