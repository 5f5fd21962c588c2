#!/usr/bin/env bash
# Train with several processes of one machine, or of several.
#   tools/dist_train.sh CONFIG PROCESSES [further arguments of tools/train.py]
# One process per GPU, or as many as you like on CPUs. On several machines
# run it on each with NNODES, NODE_RANK (0, 1, ...) and MASTER_ADDR set.
# SIGTERM and SIGUSR1 stop the run after the step under way, with exit code
# 75; --resume continues it. With RESTARTS=N it does so itself, N times, but
# not after Ctrl-C, or when the terminal closes.
set -euo pipefail
if (( $# < 2 )); then
    echo "Usage: $0 CONFIG PROCESSES [arguments of tools/train.py]" >&2
    exit 2
fi
config=$1 processes=$2 restarts=${RESTARTS:-0}
shift 2
tools=$(dirname "$0")
trap 'kill -TERM "$child"' TERM USR1
# A terminal sends these to all processes.
trap 'restarts=0' INT HUP
while true; do
    python "$tools/launch.py" \
        --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" \
        --master_port="${PORT:-29500}" --nproc_per_node="$processes" \
        "$tools/train.py" "$config" --launcher pytorch "$@" &
    child=$!
    # A signal ends the waiting, not the child.
    while code=0; wait "$child" || code=$?; kill -0 "$child" 2>/dev/null; do
        :
    done
    (( code == 75 && restarts-- > 0 )) || exit "$code"
    # The last --resume counts, and an epoch begins again only once.
    for word; do
        shift
        [[ $word == --restart-epoch ]] || set -- "$@" "$word"
    done
    set -- "$@" --resume
done
