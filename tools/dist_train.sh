#!/usr/bin/env bash
# Train with several processes of one machine, or of several.
#   tools/dist_train.sh CONFIG PROCESSES [further arguments of tools/train.py]
# One process per GPU, or as many as you like on CPUs. On several machines
# run it on each with NNODES, NODE_RANK (0, 1, ...) and MASTER_ADDR set.
set -euo pipefail
if (( $# < 2 )); then
    echo "Usage: $0 CONFIG PROCESSES [arguments of tools/train.py]" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" --nproc_per_node="$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
