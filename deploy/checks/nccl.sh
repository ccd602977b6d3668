#!/bin/bash
# Try NCCL between all GPUs of several nodes before a run does: the operations of its ranks, with their results compared.
#   srun --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 deploy/checks/nccl.sh
#   deploy/checks/nccl.sh NODES NUMBER HEAD          without Slurm, on each node: NUMBER counts from 0, HEAD is node 0
# BACKEND=gloo PROCESSES=1 tries the network alone, without GPUs. NCCL_SOCKET_IFNAME names an interface, and
# NCCL_DEBUG=INFO says which transport NCCL takes; a hang ends after 2 minutes, and says which rank did not come.
set -euo pipefail
if [ $# -eq 3 ]; then
  nodes=$1 number=$2 head=$3
elif [ $# -eq 0 ] && [ -n "${SLURM_JOB_NODELIST:-}" ]; then
  nodes=$SLURM_NNODES number=$SLURM_NODEID
  mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  head=${hosts[0]}
else
  echo "usage: srun --nodes=N --ntasks-per-node=1 --gpus-per-node=M nccl.sh, or nccl.sh NODES NUMBER HEAD" >&2
  exit 64
fi
exec python -m torch.distributed.run --nnodes="$nodes" --node-rank="$number" --master-addr="$head" \
  --master-port="${PORT:-16383}" --nproc-per-node="${PROCESSES:-gpu}" "$(dirname "$0")/collectives.py"
