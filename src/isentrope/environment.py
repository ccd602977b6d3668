"""The process environment: every variable this program sets or reads, in one place. Knows nothing of runs.

Libraries read their variables when they are imported, so `set_defaults` is called before anything heavy. What the user
has set already is left alone. Child processes inherit the result; what does not (Ray's workers) gets `defaults`.
"""

import os
from collections.abc import Mapping
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
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths stay what they are
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # Ray's minute is short for a busy laptop
    "TRITON_DEFAULT_FP_FUSION": "1",  # its present behaviour; unset, Triton 3.9 warns at every compilation
}

_CPU = {
    "DS_ACCELERATOR": "cpu",  # DeepSpeed neither probes nor warns
    "GLOO_SOCKET_IFNAME": "lo",  # engines and ranks share one machine; else they listen where its name points
    "OMP_NUM_THREADS": "1",  # ranks and engines share few cores; also what makes a run repeatable to the bit
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less; a laptop is not taken away
    "TORCHDYNAMO_DISABLE": "1",  # no Inductor, hence no compiler; never on a GPU
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}

_OFFLINE = {"HF_HUB_OFFLINE": "1"}  # nobody waits for a network when all models are local folders

CACHE_VARIABLE = "XDG_CACHE_HOME"
"""Folder of the user's caches; unset: `~/.cache`."""

COMMAND_MARK = "ISENTROPE_COMMAND"
"""Differs between two commands and is inherited by all they start, so that what a dead one left can be found."""

READ_FROM_USER: Mapping[str, str] = MappingProxyType(
    {
        CACHE_VARIABLE: "folder of the user's caches; default ~/.cache",
        "CUDA_VISIBLE_DEVICES": "empty or -1: work as on a machine without a GPU",
        "ISENTROPE_REDIS_URL": "the broker; unset: a private bundled server (`redis.url_env` names another variable)",
    }
)
"""Every variable of the user's that this program itself reads, and what it means."""


def defaults(*, cpu: bool, offline: bool = False) -> dict[str, str]:
    """The variables of a process of ours.

    Args:
        cpu: it works without a GPU.
        offline: all models and data are local, as in the demo and the tests.
    """
    return _ALWAYS | (_CPU if cpu else {}) | (_OFFLINE if offline else {})


def set_defaults(*, cpu: bool | None = None, offline: bool = False) -> None:
    """Set `defaults` in this process where the user has not set them. Call it before the first heavy import.

    Args:
        cpu: work without a GPU; None: if there is none.
        offline: as in `defaults`.
    """
    for name, value in defaults(cpu=not has_gpu() if cpu is None else cpu, offline=offline).items():
        os.environ.setdefault(name, value)


def has_gpu() -> bool:
    """Whether this process may use a CUDA device. Asks the driver's device files: torch would take seconds to load."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in {"", "-1"}:
        return False
    return any(Path("/dev").glob("nvidia[0-9]*"))


def cache_folder() -> Path:
    """This program's folder among the user's caches."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache") / "isentrope"


def variable(name: str) -> str:
    """Value of a variable that the run file names, such as `redis.url_env`; empty: not set."""
    return os.environ.get(name, "")
