#!/bin/sh
# Try the images and the Compose file on a machine with Docker and Compose 2.24 or newer, in a clone with network.
#   deploy/checks/containers.sh
# Ends with 0 when the run of compose.yaml has finished and Prometheus knows of it. GPU=1 builds the other image too.
set -eux
cd "$(dirname "$0")/../.."
[ ! -e deploy/compose/runs/pair ] || { echo "deploy/compose/runs/pair is there: an earlier run" >&2 && exit 73; }
docker build --file deploy/docker/Dockerfile --target cpu --tag isentrope:cpu .
[ -z "${GPU:-}" ] || docker build --file deploy/docker/Dockerfile --target cuda --tag isentrope:cuda .
# any user may run it; nothing of the package's is its own to write
docker run --rm --user 12345:0 --shm-size 2g isentrope:cpu isentrope demo --batches 2
[ -z "${GPU:-}" ] || docker run --rm --gpus all --shm-size 16g isentrope:cuda isentrope demo --batches 2 --ranks 1

deploy/compose/prepare.sh
compose() { docker compose --file deploy/compose/compose.yaml "$@"; }
trap 'compose logs --tail 50; compose down --volumes' EXIT
compose config --quiet
docker compose --file deploy/compose/compose.yaml --file deploy/compose/gpu.yaml config --quiet
compose up --build --detach
compose up --detach --no-recreate --scale actor=2
until wget -qO- 'http://127.0.0.1:9090/api/v1/query?query=isentrope_batch>0' | grep '"run":"pair"'; do
  compose ps --services --status running | grep -qx train # else it has ended before anything was seen
  sleep 2
done
[ "$(compose wait train)" = 0 ]
test -s deploy/compose/runs/pair/runs/pair/report.html
