#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Train on the nodes of a SLURM cluster; the job requeues itself after a preemption and at
# its time limit:
#     sbatch experiments/launch/slurm.sh RECIPE [options of experiments.run]
# Start it in the folder of the repository. All nodes must share this folder and --workdir.
# Options of sbatch before the name of the script override those below. See README.md.
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
# variables. Each process uses the GPU whose number is its index on the node, so every
# process must see all GPUs of its node: no --gpus-per-task and no binding.
srun --kill-on-bad-exit=1 --gpu-bind=none \
    python -m experiments.run "$@" --hosts.coordinator auto
status=$?

# srun returns the highest status of all tasks: 75 means stopped and saved, 76 means a lost
# process, and above 128 are signals. The limit ends jobs that fail on a broken node.
case $status in
75 | 76 | 13[0-9] | 14[0-9])
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit $status
