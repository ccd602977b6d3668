"""Numerical bounds that the kernels share with their callers. Imports nothing."""

LOG_RATIO_CLAMP = 20.0
"""Largest |log p - log q|, in nats, whose exponential is taken: far beyond any clip, and the square of e^20 is still
finite in float32. Beyond it a ratio is constant and has no gradient."""
