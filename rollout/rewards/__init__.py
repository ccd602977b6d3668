"""Reward functions: import, calls and validation."""
