#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Train on a SLURM cluster. The job requeues itself after a preemption, at its time limit
# and after a lost process:
#     sbatch experiments/launch/slurm.sh RECIPE [options of experiments.run]
# Submit it from the folder of the repository. All nodes must share this folder and
# --workdir. Options of sbatch override the lines below. See README.md.
#SBATCH --job-name=inception
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120

# JAX reads the number of processes, their indices and the coordinator from SLURM's
# variables. Each process uses the GPU whose number is its index on the node. It must
# therefore see all GPUs of its node: no --gpus-per-task and no binding.
srun --kill-on-bad-exit=1 --gpu-bind=none \
    python -m experiments.run "$@" --hosts.coordinator auto
status=$?

# srun returns the highest status of all tasks. 75 means stopped and saved, 76 a lost
# process, and 128 + N ended by signal N. The limit of 100 keeps a job on a broken
# node from requeueing forever.
case $status in
75 | 76 | 13[0-9] | 14[0-9])
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit $status
