"""The data that travels between actors and learner: records, their bytes, weight manifests, control state, seeds."""
