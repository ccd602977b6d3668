"""Reward functions: found, called and validated."""
