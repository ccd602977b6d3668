#!/bin/bash
# Try the batch files on a Slurm of your own with two nodes of eight GPUs, in a checkout that both see.
#   deploy/checks/slurm.sh [SBATCH-OPTION ...]
# NCCL first, then a run that is warned, requeued, and goes on. Ends with 0 when it has.
set -euxo pipefail
cd "$(dirname "$0")/../.."
srun --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 "$@" deploy/checks/nccl.sh
folder=$PWD/runs/check-slurm
job=$(sbatch --parsable --nodes=2 "$@" deploy/slurm/train.sbatch deploy/runs/gsm8k-8gpu.toml \
  run.output_dir="$folder" actors.count=8 learner.ranks=8 learner.checkpoint_every=1000)
trained() { # more than $1 batches
  until [ "$(cat "$folder"/metrics.jsonl 2>/dev/null | wc -l)" -gt "$1" ]; do
    squeue --noheader --jobs "$job" | grep -q . # else it has ended
    sleep 10
  done
}
trained 2
seen=$(wc -l <"$folder/metrics.jsonl")
scancel --batch --signal=TERM "$job"
until scontrol show job "$job" | grep -q 'Restarts=1'; do sleep 5; done
trained "$seen"
[ "$(wc -l <"$folder/metrics.jsonl")" -gt "$seen" ]
scancel "$job"
