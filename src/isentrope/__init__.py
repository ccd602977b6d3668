"""Reinforcement learning of language models with entropy control; importing this package loads nothing else."""

__version__ = "0.2.0"
