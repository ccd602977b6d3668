"""What travels between actors and learner: records, their bytes, weight manifests, operator's control, seeds."""
