"""The interpreter without what it does again and again.

Triton 3.9 (and 3.6) replaces the functions of `triton.language` before every call of a device function, half of the
time that our kernels take in it. Once for each module is enough: the kernel's own launch has done the same, and what a
device function replaces stays. Remove when `InterpretedFunction.__call__` no longer calls `_patch_lang`.
"""

from typing import Any

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
