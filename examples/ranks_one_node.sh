#!/usr/bin/env bash
# One machine with several GPUs: a rank each. Whatever stopped it, the same command goes on.
#
#     bash examples/ranks_one_node.sh --task Mjlab-Tracking-Flat-Unitree-G1 --motion motions/ \
#         --passes 1 --checkpoint model.pt --num-envs 1024 --max-steps 100000 --output expert/
#
# torchrun starts all ranks again if one of them dies: the others are told to end first, and commit.
set -euo pipefail
GPUS="${GPUS:-$(nvidia-smi -L 2>/dev/null | wc -l || true)}"
((GPUS > 0)) || { echo "no GPU is seen: say by GPUS=N how many ranks" >&2; exit 2; }
exec torchrun --standalone --nproc-per-node "$GPUS" --max-restarts "${RESTARTS:-3}" --no-python \
    mosaic-collect collect --distributed --auto-resume "$@"
