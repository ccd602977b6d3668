#!/bin/sh
# Try an overlay on a cluster of your own, whose nodes find the image isentrope:cuda and have the GPUs it asks for.
#   deploy/checks/kubernetes.sh plain|single-node|ray
# Ends with 0 when the run is at work, has lost a pod of each kind, and has gone on. What it made stays: see the end.
set -eux
overlay=${1:?usage: kubernetes.sh plain|single-node|ray}
cd "$(dirname "$0")/../.."
run=gsm8k
[ "$overlay" != ray ] || run=dapo-7b
inside() { kubectl --namespace isentrope "$@"; }
batch() { # the newest, as a pod with the labels $1 says
  pod=$(inside get pods --selector "$1" --field-selector status.phase=Running --output name | head -n 1)
  inside exec "$pod" -- isentrope status --json "/runs/$run" |
    python3 -c 'import json, sys; print((json.load(sys.stdin)["last_batch"] or {"batch": 0})["batch"])'
}
trained() { # more than $2 batches
  until [ "$(batch "$1" 2>/dev/null || echo 0)" -gt "$2" ]; do sleep 10; done
}

deploy/kubernetes/secret.sh "$run"
kubectl apply --dry-run=server --kustomize "deploy/kubernetes/overlays/$overlay"
kubectl apply --kustomize "deploy/kubernetes/overlays/$overlay"
inside rollout status statefulset/broker --timeout=5m
command=part=train
[ "$overlay" != ray ] || command=role=head
trained "$command" 1
seen=$(batch "$command")
[ "$overlay" != plain ] || inside delete pod --selector part=actor --wait=false
[ "$overlay" != ray ] || inside delete pod --selector role=actor --wait=false
inside delete pod broker-0
inside rollout status statefulset/broker --timeout=5m
trained "$command" "$((seen + 1))"
seen=$(batch "$command")
inside delete pod --selector "$command" --wait=false # TERM: a checkpoint, then another pod, and its actors, go on
trained "$command" "$((seen + 1))"
inside get pods
echo "remove it with: kubectl delete namespace isentrope"
