"""Demands of torch and Triton on a machine with GPUs: a driver as new as torch's CUDA, a C compiler, Python's headers.

Triton compiles a small C library at the first kernel of every process whose cache does not hold it yet.
"""

import ctypes
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from isentrope.environment import c_compiler, has_gpu
from isentrope.errors import ConfigError
from isentrope.long_waits import waiting_for

DRIVER = "libcuda.so.1"

COMPILER_TIMEOUT_S = 60.0
"""Time limit of one small compilation."""

_PROGRAM = """#include <dlfcn.h>
#include <stdlib.h>
#include <Python.h>
PyObject *nothing(void) { return PyLong_FromLong(0); }
"""
"""The headers of Triton's own `driver.c`, but for CUDA's, which it brings."""


def failures() -> Iterator[ConfigError]:
    """Yield an error for everything without which no kernel can start here; none on a machine without a GPU."""
    if not has_gpu():
        return
    if find_spec("torch") is not None:
        yield from _driver_failures()
    yield from _compiler_failures()


def driver_cuda() -> int:
    """Return the newest CUDA that the driver serves, as 1000 times the major and 10 times the minor version.

    Raises:
        OSError: there is no driver's library.
    """
    number = ctypes.c_int(0)
    ctypes.CDLL(DRIVER).cuDriverGetVersion(ctypes.byref(number))
    return number.value


def _driver_failures() -> Iterator[ConfigError]:
    import torch

    built = torch.version.cuda
    if built is None:
        yield ConfigError(
            f"torch {torch.__version__} is built without CUDA, and this machine has GPUs",
            fix="install the part for GPUs: make install-gpu, in a clone, or pip install 'isentrope[gpu]'; or set "
            "CUDA_VISIBLE_DEVICES= (empty) to work without GPUs",
        )
        return
    try:
        served = driver_cuda()
    except OSError as error:
        yield ConfigError(
            f"the NVIDIA driver's library cannot be loaded: {error}",
            fix="in a container: start it by NVIDIA's runtime, with the capabilities compute,utility",
        )
        return
    if served // 1000 < int(built.partition(".")[0]):
        yield ConfigError(
            f"the NVIDIA driver serves CUDA {served // 1000}.{served % 1000 // 10}, and torch {torch.__version__} is "
            f"built for CUDA {built}",
            fix="install a newer driver: CUDA 13 wants 580 or newer",
        )


def _compiler_failures() -> Iterator[ConfigError]:
    compiler, headers = c_compiler(), _headers()
    if not compiler:
        yield ConfigError(
            "no C compiler: Triton needs one to start a kernel on a GPU, and gcc and clang are not on PATH",
            fix="install one with the C library's headers (apt-get install gcc libc6-dev), or let CC name it",
        )
    elif not (headers / "Python.h").is_file():
        yield ConfigError(
            f"no Python.h in {headers}: Triton needs it to start a kernel on a GPU",
            fix="install the headers of this Python (apt-get install python3-dev, where it is the system's)",
        )
    elif reason := _uncompilable(compiler, headers):
        yield ConfigError(
            f"{compiler} cannot compile what Triton needs to start a kernel on a GPU: {reason}",
            fix="install the C library's headers (apt-get install libc6-dev), or let CC name another compiler",
        )


def _headers() -> Path:
    """Return the folder in which Triton looks for Python.h."""
    scheme = sysconfig.get_default_scheme()
    scheme = "posix_prefix" if scheme == "posix_local" else scheme  # Debian's own scheme adds `local`
    return Path(sysconfig.get_paths(scheme=scheme)["include"])


def _uncompilable(compiler: str, headers: Path) -> str:
    """Return the first error of a compilation like Triton's; empty: none."""
    with tempfile.TemporaryDirectory(prefix="isentrope-") as folder:
        source = Path(folder, "launcher.c")
        source.write_text(_PROGRAM, encoding="ascii")
        command = [compiler, str(source), "-O3", "-shared", "-fPIC", f"-I{headers}", "-o", f"{folder}/launcher.so"]
        try:
            with waiting_for(f"{compiler} to compile a program of some lines"):
                done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILER_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if done.returncode == 0:
        return ""
    told = done.stderr.splitlines()
    return next((line for line in told if "error" in line), told[0] if told else f"exit code {done.returncode}")
