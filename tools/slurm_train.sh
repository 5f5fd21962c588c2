#!/usr/bin/env bash
# Train on a SLURM cluster, one task per GPU.
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
# From a batch script with `#SBATCH --requeue --signal=USR1@120` the run stops
# two minutes before the job's end, is queued again, and goes on by itself.
set -euo pipefail
if (( $# < 3 )); then
    echo "Usage: $0 PARTITION JOB_NAME CONFIG [arguments of tools/train.py]" >&2
    exit 2
fi
partition=$1 job=$2 config=$3
shift 3
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$(( gpus < 8 ? gpus : 8 ))}
if (( ${SLURM_RESTART_COUNT:-0} > 0 )); then
    # The last --resume counts, and an epoch begins again only once.
    for word; do
        shift
        [[ $word == --restart-epoch ]] || set -- "$@" "$word"
    done
    set -- "$@" --resume
fi
code=0
# SRUN_ARGS is a list of words on purpose.
# shellcheck disable=SC2086
srun --partition="$partition" --job-name="$job" \
    --gres="gpu:$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --launcher slurm "$@" ||
    code=$?
if (( code == 75 )) && [[ -n ${SLURM_JOB_ID:-} ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
