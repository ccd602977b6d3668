"""Factors between nats and bits, for kernels: the hardware has 2^x and log2."""

import triton.language as tl

LN2 = tl.constexpr(0.6931471805599453)
"""Nats of a bit."""

LOG2E = tl.constexpr(1.4426950408889634)
"""Bits of a nat."""
