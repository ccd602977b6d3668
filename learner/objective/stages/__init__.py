"""Stages of an objective: pure functions of tensors, one file for each table under `[learner.objective]`."""
