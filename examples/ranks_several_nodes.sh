#!/usr/bin/env bash
# Several machines on a shared disk. On each of them, with its own NODE:
#
#     NODE=0 NODES=2 bash examples/ranks_several_nodes.sh --task Mjlab-Tracking-Flat-Unitree-G1 \
#         --motion /shared/motions --passes 1 --checkpoint /shared/model.pt --num-envs 1024 \
#         --max-steps 100000 --output /shared/expert
#
# Ranks share nothing but the folder: no machine waits for another, none need see another, and the
# same command on one of them alone goes on with its ranks.
set -uo pipefail
GPUS="${GPUS:-$(nvidia-smi -L 2>/dev/null | wc -l || true)}"
((GPUS > 0)) || { echo "no GPU is seen: say by GPUS=N how many ranks" >&2; exit 2; }
: "${NODE:?the number of this machine, from 0 on}" "${NODES:?how many machines there are}"

ranks=()
# A scheduler's signals are for the ranks, which commit and end.
trap 'kill -TERM "${ranks[@]}" 2>/dev/null' TERM INT HUP USR1 USR2
for ((local = 0; local < GPUS; local++)); do
    RANK=$((NODE * GPUS + local)) LOCAL_RANK=$local WORLD_SIZE=$((NODES * GPUS)) \
        mosaic-collect collect --distributed --auto-resume "$@" &
    ranks+=("$!")
done

failed=0
for rank in "${ranks[@]}"; do
    while true; do # a signal ends wait, and not the rank
        wait "$rank"
        code=$?
        kill -0 "$rank" 2>/dev/null || break
    done
    ((code == 0)) || failed=$code
done
exit "$failed"
