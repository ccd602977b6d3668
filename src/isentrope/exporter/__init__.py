"""The metrics of a run for Prometheus, read from its broker."""
