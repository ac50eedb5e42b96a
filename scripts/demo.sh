#!/usr/bin/env bash
# The main job on the embedded simulator: record a Unitree G1, resume, export, prove.
# Makes .venv in the checkout and needs nothing but Python. Arguments go to `mosaic-collect demo`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

main_venv mjlab
# Many small tensors: one thread is faster than several that wait for each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" WANDB_MODE=disabled
"$PYTHON" -m mosaic_collect demo "$@" || die "the demo did not prove everything (exit code $?)"
