#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A run on a TPU slice of a GKE cluster, by XPK:
#     CLUSTER=my-cluster TPU=v5litepod-16 IMAGE=gcr.io/my-project/inception NAME=v4-seed-0 \
#         experiments/launch/xpk.sh RECIPE [options]
# IMAGE holds this repository as its working folder, installed with the extra "train" and
# jax[tpu]. --workdir is a folder that all pods share ("xpk storage attach").
: "${CLUSTER:?is the GKE cluster}" "${TPU:?is a type of XPK, such as v5litepod-16}" \
    "${IMAGE:?is a container image with this repository}" "${NAME:?is one for the job}"

arguments=$(printf ' %q' "$@")
# XPK starts a job again after the statuses 42 and 127 to 255 alone: ours are added. It hands
# SIGTERM to the command it started, which is why that has to become Python itself.
exec xpk workload create \
    --cluster="$CLUSTER" --workload="$NAME" --tpu-type="$TPU" --num-slices=1 \
    --docker-image="$IMAGE" \
    --max-restarts=100 --restart-on-exit-codes=75,76 \
    --termination-grace-period-seconds=120 \
    --command="exec python -m experiments.run$arguments --hosts.coordinator auto"
