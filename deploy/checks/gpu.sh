#!/bin/sh
# Try one machine with two or more GPUs, in a clone with network: install, what `check` says, a run, the kernels.
#   deploy/checks/gpu.sh
# Ends with 0 when the demo has learned and the kernels agree with their references.
set -eux
cd "$(dirname "$0")/../.."
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
make install-gpu
PATH=$PWD/.venv-gpu/bin:$PATH
isentrope check deploy/runs/gsm8k-8gpu.toml actors.count=1 learner.ranks=1
isentrope plan deploy/runs/gsm8k-8gpu.toml
make demo-gpu
isentrope bench kernels --json bench-gpu.json
isentrope train deploy/runs/gsm8k-8gpu.toml run.output_dir="$PWD/runs/check-gpu" actors.count=1 learner.ranks=1 \
  learner.batches=5 learner.eval_every=0
