#!/bin/sh
# The command, which KubeRay starts on the head. In a file, because the shell of the pod that hands it to Ray would
# expand the address too early.
exec isentrope train /etc/isentrope/run.toml --ray-address "$RAY_ADDRESS" --stopped-code=80 \
  run.output_dir=/runs/dapo-7b \
  redis.passwords=/run/secrets/broker \
  cluster.gpus=true \
  cluster.learner_labels.role=learner \
  cluster.actor_labels.role=actor
