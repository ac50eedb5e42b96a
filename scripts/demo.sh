#!/usr/bin/env bash
# The main job on the embedded simulator: record a Unitree G1, resume, export, prove.
# Makes .venv in the checkout and needs nothing but Python. Arguments go to `mosaic-collect demo`;
# with --sim isaaclab, Isaac Lab 3 comes beside it, into .venv-isaaclab3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

main_venv replay,report
case " $* " in *" --sim isaaclab "* | *" --sim=isaaclab "*)
  say "Isaac Lab 3 on Newton's physics, in .venv-isaaclab3"
  "$PYTHON" -m tests.envs isaaclab3 || die "it could not be made, see above"
  PYTHON=$PWD/.venv-isaaclab3/bin/python
  # It sees .venv's packages; of this one, a path file alone would not be followed.
  export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
  ;;
esac
# Many small tensors: one thread is faster than several that wait for each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" WANDB_MODE=disabled
"$PYTHON" -m mosaic_collect demo "$@" || die "the demo did not prove everything (exit code $?)"
