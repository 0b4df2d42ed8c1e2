#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A run on the nodes of a SLURM cluster, which goes on by itself after a preemption or the
# end of its time:
#     sbatch experiments/launch/slurm.sh RECIPE [options of experiments.run]
# from the repository's folder, which all nodes share, as they do --workdir. Options of
# sbatch before the script's name override those below.
#SBATCH --job-name=inception
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120

# JAX finds count, indices and coordinator in SLURM's variables. It gives each process the
# one GPU of its number on the node (--ntasks-per-node is their number), so that all of a
# node's have to be visible to each: no --gpus-per-task, no binding.
srun --kill-on-bad-exit=1 --gpu-bind=none \
    python -m experiments.run "$@" --hosts.coordinator auto
status=$?

# srun gives the highest status of all tasks: 75 is stopped and saved, 76 a process lost, and
# above 128 are signals. A node that is broken would have the job come back for ever.
case $status in
75 | 76 | 13[0-9] | 14[0-9])
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit $status
