#!/usr/bin/env bash
# Start a Slurm cluster of three nodes on this machine, for tests/slurm/test_slurm.py.
#
#   tests/slurm/start.sh FOLDER
#   tests/slurm/stop.sh FOLDER
#
# It needs root, munge and slurm-wlm (on Debian: apt-get install munge slurm-wlm). All its files are in FOLDER but the
# link /etc/slurm/slurm.conf, because Snakemake starts jobs without SLURM_CONF; it listens on ports of its own. Each node
# has one CPU and one GPU that does not exist.
set -euo pipefail
folder=$(realpath -m "${1:?a folder for the files of the cluster}")
if [ -e /etc/slurm/slurm.conf ]; then
    echo "there is a cluster already: /etc/slurm/slurm.conf" >&2
    exit 1
fi
mkdir -p "$folder"/{state,log,munge}
chmod 711 "$folder/munge"
dd if=/dev/urandom of="$folder/munge/key" bs=1024 count=1 status=none
chmod 400 "$folder/munge/key"
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge.pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/munge/seed"
host=$(hostname -s)
cat > "$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdSpoolDir=$folder/spool.%n
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmdLogFile=$folder/log/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
MinJobAge=3600
KillWait=2
GresTypes=gpu
NodeName=node[1-3] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-17003] CPUs=1 RealMemory=64000 Gres=gpu:1
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
echo "NodeName=node[1-3] Name=gpu File=/dev/null" > "$folder/gres.conf"
ln -s "$folder/slurm.conf" "$folder/gres.conf" /etc/slurm/
slurmctld
for node in node1 node2 node3; do
    mkdir -p "$folder/spool.$node"
    slurmd -N "$node"
done
for _ in $(seq 50); do
    [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 3 ] && exec sinfo
    sleep 0.2
done
echo "the nodes did not start; see $folder/log" >&2
exit 1
