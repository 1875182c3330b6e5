#!/usr/bin/env bash
# Stop the cluster of tests/slurm/start.sh: tests/slurm/stop.sh FOLDER
set -uo pipefail
folder=${1:?the folder given to start.sh}
for pid in "$folder"/slurmd.*.pid "$folder/slurmctld.pid" "$folder/munge.pid"; do
    [ -f "$pid" ] && kill "$(cat "$pid")"
done
rm -f /etc/slurm/slurm.conf /etc/slurm/gres.conf
