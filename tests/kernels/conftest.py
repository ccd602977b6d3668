"""The interpreter without what it does again and again, and with a multiplication and addition that round once.

Triton 3.9 (and 3.6) replaces the functions of `triton.language` before every call of a device function, half of the
time that our kernels take in it. Once for each module is enough: the kernel's own launch has done the same, and what a
device function replaces stays. Remove when `InterpretedFunction.__call__` no longer calls `_patch_lang`.

Up to Triton 3.7 `fma` rounds the product too, which no device does: at a logit of 60 that alone is an error of 1e-5 in
an exponent. Remove when no lock holds such a one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from triton.runtime import interpreter

_replace = interpreter._patch_lang
_done: set[int] = set()


def _call(self: Any, *args: object, **kwargs: object) -> object:
    module = id(self.fn.__globals__)
    if module not in _done:
        _replace(self.fn)
        _done.add(module)
    return self.rewrite()(*args, **kwargs)


interpreter.InterpretedFunction.__call__ = _call


def _fma(self: object, x: Any, y: Any, z: Any) -> interpreter.TensorHandle:
    """Return x * y + z, rounded to float32 once: float64 holds the product of two float32 exactly."""
    total: NDArray[np.float64] = x.data.astype(np.float64) * y.data + z.data
    return interpreter.TensorHandle(total.astype(z.data.dtype), z.dtype.scalar)


if not hasattr(interpreter._interpreter, "fma_fp32"):
    interpreter.InterpreterBuilder.create_fma = _fma
