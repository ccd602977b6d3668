#!/bin/sh
# Make the Secret of a run's users, with a token for the depot and one for Ray:  secret.sh RUN [FOLDER]
# FOLDER, by default broker-RUN, keeps the passwords; the same command makes the same Secret again.
set -eu
run=${1:?usage: secret.sh RUN [FOLDER]}
folder=${2:-broker-$run}
here=$(dirname "$0")
"$here/../redis/make-acl.sh" "$run" "$folder"
umask 077
for name in depot.token ray.token; do
  [ -s "$folder/$name" ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$folder/$name"
done
kubectl create namespace isentrope --dry-run=client --output=yaml | kubectl apply --filename=-
kubectl create secret generic broker-users --namespace=isentrope --from-file="$folder" --dry-run=client --output=yaml |
  kubectl apply --filename=-
