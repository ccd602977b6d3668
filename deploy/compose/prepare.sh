#!/bin/sh
# Make what compose.yaml mounts, once for each run:  prepare.sh [RUN]
#   secrets/  passwords of the run's users, and the broker's access rules
#   runs/     folder of the run
#   .env      the run's name, and the user as whom containers write there
set -eu
run=${1:-pair}
cd "$(dirname "$0")"
../redis/make-acl.sh "$run" secrets
mkdir -p runs
printf 'ISENTROPE_RUN=%s\nISENTROPE_UID=%s\n' "$run" "$(id -u)" >.env
