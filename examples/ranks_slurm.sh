#!/usr/bin/env bash
# SLURM: a rank a GPU. Before its time is up, and when it is preempted, the job commits and ends; it
# is queued again, with as many nodes as there are then, and goes on.
#
#     sbatch examples/ranks_slurm.sh --task Mjlab-Tracking-Flat-Unitree-G1 --motion motions/ \
#         --passes 1 --checkpoint model.pt --num-envs 1024 --max-steps 100000 --output expert/
#
#SBATCH --job-name=expert
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120
set -uo pipefail

# Signals of SLURM (USR1 two minutes before the end, TERM when preempted) come to the tasks; each
# commits and ends by 128 and the signal's number. This script waits for them. It must not ignore
# signals: the tasks would, too.
trap : TERM USR1
# shellcheck disable=SC2016  the tasks' own variables
srun --kill-on-bad-exit=0 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec mosaic-collect collect --distributed --auto-resume "$@"
' rank "$@"
code=$?

# A job whose time was up is not queued again by SLURM itself, as a preempted one is.
if ((code == 128 + $(kill -l USR1))); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
