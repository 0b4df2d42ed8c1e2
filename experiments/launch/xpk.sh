#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Train on a TPU slice of a GKE cluster with XPK:
#     CLUSTER=my-cluster TPU=v5litepod-16 IMAGE=gcr.io/my-project/inception NAME=v4-seed-0 \
#         experiments/launch/xpk.sh RECIPE [options]
# The working directory of IMAGE must be this repository, installed with the extra "train"
# and jax[tpu]. All pods share --workdir ("xpk storage attach"). See README.md.
: "${CLUSTER:?must be the GKE cluster}" "${TPU:?must be a TPU type, such as v5litepod-16}"
: "${IMAGE:?must be an image with this repository}" "${NAME:?must be a unique name for the job}"

arguments=$(printf ' %q' "$@")
# By default XPK restarts a job only after statuses 42 and 127 to 255. It sends SIGTERM to
# the command that it starts; with exec, that command is Python itself.
exec xpk workload create \
    --cluster="$CLUSTER" --workload="$NAME" --tpu-type="$TPU" --num-slices=1 \
    --docker-image="$IMAGE" \
    --max-restarts=100 --restart-on-exit-codes=75,76 \
    --termination-grace-period-seconds=120 \
    --command="exec python -m experiments.run$arguments --hosts.coordinator auto"
