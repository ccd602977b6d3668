"""The process environment: every variable this program sets or reads, in one place.

Libraries read their variables when they are imported, so `set_defaults` is called before heavy imports. Variables the
user, or the administrator of a machine, has set stay as they are. Child processes inherit the result; workers of a
running Ray cluster, which do not, call it first thing.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

_ALWAYS = {
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",  # nothing leaves the machine
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore::FutureWarning",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # what a command prints, such as JSON, is its own alone
    "PYTHONSAFEPATH": "1",  # a file in the command's folder, such as math.py, hides no module from child processes
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # Ray's minute is short for a busy laptop
    "TRITON_DEFAULT_FP_FUSION": "1",  # the default; unset, Triton 3.9 warns at every compilation
}

_CPU = {
    "DS_ACCELERATOR": "cpu",  # DeepSpeed neither probes nor warns
    "OMP_NUM_THREADS": "1",  # ranks and engines share few cores; also makes a run bitwise repeatable
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less; a laptop is not preempted
    "TORCHDYNAMO_DISABLE": "1",  # no Inductor, hence no compiler; never on a GPU
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}

_OFFLINE = {"HF_HUB_OFFLINE": "1"}  # no wait for the network when all models are local folders

LOOPBACK = "lo"
"""Network interface of processes that share one machine."""

CACHE_VARIABLE = "XDG_CACHE_HOME"
"""Folder of the user's caches; unset: `~/.cache`."""

COMMAND_MARK = "ISENTROPE_COMMAND"
"""Variable that differs between two commands and is inherited by all their processes: finds those of a dead command."""

TOKEN_VARIABLE = "ISENTROPE_DEPOT_TOKEN"
"""Token of a depot over HTTP; unset: it follows from the broker's password."""

READ_FROM_USER: Mapping[str, str] = MappingProxyType(
    {
        "CC": "C compiler, which Triton needs on a machine with GPUs; unset: gcc, else clang",
        CACHE_VARIABLE: "folder of the user's caches; default ~/.cache",
        "CUDA_VISIBLE_DEVICES": "empty or -1: work as on a machine without a GPU",
        TOKEN_VARIABLE: "token of the depot, where its side and the actors have different passwords of the broker",
        "ISENTROPE_REDIS_URL": "the broker; unset: a private bundled server (`redis.url_env` names another variable)",
    }
)
"""Every variable of the user's that this program itself reads, and its meaning."""


def defaults(*, cpu: bool, offline: bool = False, interface: str = LOOPBACK) -> dict[str, str]:
    """Return the variables to set in a process of this program.

    Args:
        cpu: work without a GPU.
        offline: all models and data are local, as in the demo and the tests.
        interface: network interface by which it meets the processes of its group, which gloo would take from what this
            machine's name points to; empty: gloo's choice.
    """
    meeting = {"GLOO_SOCKET_IFNAME": interface} if interface else {}
    return _ALWAYS | meeting | (_CPU if cpu else {}) | (_OFFLINE if offline else {})


def set_defaults(*, cpu: bool | None = None, offline: bool = False, interface: str = LOOPBACK) -> None:
    """Set `defaults` in this process where they are not set. Call it before the first heavy import.

    Args:
        cpu: work without a GPU; None: if there is none.
        offline: as in `defaults`.
        interface: as in `defaults`.
    """
    cpu = not has_gpu() if cpu is None else cpu
    for name, value in defaults(cpu=cpu, offline=offline, interface=interface).items():
        os.environ.setdefault(name, value)


def hide_gpus() -> None:
    """Let this process, and what it starts, work as on a machine without a GPU. Call it before torch looks for one."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    set_defaults()


def use_interface(name: str) -> None:
    """Make all groups of this process meet by a network interface, whatever was set."""
    os.environ |= {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}


@contextlib.contextmanager
def with_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process, and so of what it starts, while the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def with_temporary_folder(folder: Path) -> Iterator[None]:
    """Put the temporary files of this process, and of what it starts, into `folder` while the block runs; what PyTorch
    compiles stays for the next one."""
    before = tempfile.gettempdir()
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or str(Path(before) / f"torchinductor_{os.getuid()}")
    with with_variables({"TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": compiled}):
        tempfile.tempdir = str(folder)  # where the standard library remembers what it has read
        try:
            yield
        finally:
            tempfile.tempdir = before


def forget(names: Iterable[str]) -> None:
    """Take variables out of this process, and so of all that it starts, such as those that run reward functions."""
    for name in names:
        os.environ.pop(name, None)


def forget_command_folder() -> None:
    """Take the folder in which the command was given off the path of modules, where Ray puts it in its workers: a file
    there must not take the place of a library's module."""
    folder = os.getcwd()
    wanted = {str(Path(__file__).resolve().parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    if folder not in wanted:
        sys.path[:] = [place for place in sys.path if place not in ("", folder)]


def has_gpu() -> bool:
    """Return True if this process may use a CUDA device."""
    return gpu_count() > 0


def gpu_count() -> int:
    """Return how many CUDA devices this process may use."""
    return len(gpus())


def gpus() -> list[str]:
    """Return the CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them; by the driver's device
    files, because torch takes seconds to load."""
    here = len(list(Path("/dev").glob("nvidia[0-9]*")))
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return [str(number) for number in range(here)]
    return allowed.split(",")[:here] if allowed not in {"", "-1"} else []


def c_compiler() -> str:
    """Return the C compiler that Triton takes: the user's, else gcc, else clang; empty: there is none."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or ""


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment for a child, with these variables."""
    return {**os.environ, **variables}


def cache_folder() -> Path:
    """Return this program's folder among the user's caches."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache") / "isentrope"


def variable(name: str) -> str:
    """Return the value of a variable that the run file names, such as `redis.url_env`; empty: not set."""
    return os.environ.get(name, "")
