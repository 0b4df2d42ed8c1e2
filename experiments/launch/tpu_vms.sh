#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Train on a TPU slice that is a managed instance group of Compute Engine:
#     GROUP=my-slice ZONE=us-east5-a experiments/launch/tpu_vms.sh RECIPE [options]
# Every VM needs the same copy of this repository in ~/inception_jax, with a .venv in it.
# All VMs share --workdir. After Ctrl-C, all processes save and stop. See README.md.
: "${GROUP:?must be the name of the instance group}" "${ZONE:?must be the zone of the group}"

vms=$(gcloud compute instance-groups managed list-instances "$GROUP" \
    --zone="$ZONE" --uri) || exit 2

on_all() { # run a command on all VMs, in the background, so that Ctrl-C does not end ssh
    pids=()
    for vm in $vms; do
        gcloud compute ssh "${vm##*/}" --zone="$ZONE" --command="$1" < /dev/null &
        pids+=($!)
    done
}

arguments=$(printf ' %q' "$@")
on_all "cd inception_jax && echo \$\$ > run.pid &&
    exec .venv/bin/python -m experiments.run$arguments --hosts.coordinator auto"
runs=("${pids[@]}")
trap 'on_all "kill -TERM \$(cat inception_jax/run.pid)"' INT TERM

highest=0
for run in "${runs[@]}"; do
    wait "$run"
    status=$?
    while kill -0 "$run" 2> /dev/null; do # a signal interrupted wait, not the run
        wait "$run"
        status=$?
    done
    [ "$status" -gt "$highest" ] && highest=$status
done
exit "$highest"
