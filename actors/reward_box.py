"""Surroundings of a process that runs reward functions: its environment, its limits, and its sandbox.

| | `sandbox = "none"` | `sandbox = "bwrap"` |
|---|---|---|
| environment | what is listed here and in `data.reward_variables` | the same |
| files | those of the run's user | programs, libraries and the run file's folder, to read; an empty `/tmp` to write |
| network | as the actor | none |
| other processes | those of the run's user can be seen and killed | cannot be seen |
| what it has started ends with it | unless it kills its keeper, and has left its session | always |
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isentrope.actors import reward_keeper
from isentrope.actors.reward_keeper import Limits
from isentrope.errors import ConfigError
from isentrope.long_waits import waiting_for
from isentrope.rollout.config import DataConfig

MAX_PROCESSES = 256
"""Processes that one reward worker may have at a time, itself included."""

COUNTS_FROM = (5, 14)
"""Version of Linux from which a namespace's processes are counted apart from the user's others."""

TRY_S = 30.0
"""Time limit of the trial of the sandbox."""

_NAMES = {
    *("HOME", "HOSTNAME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV"),
    *("DS_ACCELERATOR", "DO_NOT_TRACK", "ISENTROPE_COMMAND", "LD_LIBRARY_PATH", "TOKENIZERS_PARALLELISM"),
    *("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"),
    *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    *("PYTHONHASHSEED", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONUTF8", "PYTHONWARNINGS"),
}
_BEGINNINGS = ("CUDA_", "LC_", "MKL_", "NVIDIA_", "OMP_", "OPENBLAS_", "TORCH")
"""Variables that a reward worker gets: what programs, locales, caches and processors need, and no secrets."""

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_ETC = (
    *("alternatives", "ca-certificates", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime"),
    *("nsswitch.conf", "passwd", "pki", "ssl"),
)
"""Entries of /etc that programs need; others may hold secrets."""


@dataclass(frozen=True, slots=True)
class Box:
    """Surroundings of the reward workers of one actor."""

    data: DataConfig
    run_folder: Path

    def command(self, report: int) -> list[str]:
        """Return the command of a worker whose keeper writes to the descriptor `report`."""
        limits = self.limits
        counted = "kernel" if limits.kernel_counts else "looks"
        numbers = (str(report), str(limits.memory_bytes), str(limits.processes), counted)
        return [*self._sandbox(), sys.executable, "-P", "-m", reward_keeper.__name__, *numbers]

    def environment(self) -> dict[str, str]:
        """Return the environment of a worker."""
        named = _NAMES | set(self.data.reward_variables)
        kept = {name: value for name, value in os.environ.items() if name in named or name.startswith(_BEGINNINGS)}
        if self.data.sandbox == "bwrap":
            kept = {name: value for name, value in kept.items() if name not in ("TMPDIR", "XDG_CACHE_HOME")}
            kept["HOME"] = "/tmp"
        return kept

    @property
    def limits(self) -> Limits:
        """Limits of a worker."""
        return Limits(int(self.data.reward_memory_gib * 2**30), MAX_PROCESSES, not uncounted(self.data))

    def require(self) -> None:
        """Raise ConfigError if the sandbox that was asked for cannot be had on this machine."""
        if self.data.sandbox == "none":
            return
        fix = 'install bubblewrap and allow user namespaces here, or set data.sandbox = "none"'
        if shutil.which("bwrap") is None:
            raise ConfigError(
                f'data.sandbox is "bwrap", and there is no program bwrap on {os.uname().nodename}',
                where="data.sandbox",
                fix=fix,
            )
        try:
            with waiting_for("bwrap to make a sandbox"):
                tried = subprocess.run(
                    [*self._sandbox(), sys.executable, "-I", "-c", ""],
                    capture_output=True,
                    text=True,
                    timeout=TRY_S,
                    check=False,
                    env=self.environment(),
                )
            problem = "" if tried.returncode == 0 else (tried.stderr.strip().splitlines() or ["it fails"])[-1]
        except subprocess.TimeoutExpired:
            problem = f"no answer within {TRY_S:.0f} s"
        if problem:
            raise ConfigError(
                f'data.sandbox is "bwrap", and bwrap makes no sandbox on {os.uname().nodename}: {problem}',
                where="data.sandbox",
                fix=fix,
            )

    def _sandbox(self) -> list[str]:
        """Return the part of a command that puts the rest into the sandbox."""
        if self.data.sandbox == "none":
            return []
        size = str(self.limits.memory_bytes)
        return [
            *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
            *("--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm", "--size", size),
            *("--tmpfs", "/tmp"),
            *(word for place in self._places() for word in ("--ro-bind-try", place, place)),
            *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(self.run_folder.resolve())),
        ]

    def _places(self) -> list[str]:
        """Return the folders and files that a worker may read, parents first."""
        package = Path(__file__).resolve().parents[1]
        modules = [Path(place) for place in (*sys.path, sys.prefix, sys.base_prefix, sys.exec_prefix) if place]
        own = [*modules, package, self.run_folder, *map(Path, self.data.sandbox_folders)]
        both = [str(form) for each in own if each.exists() for form in (each.absolute(), each.resolve())]
        return [*_SYSTEM, *(f"/etc/{name}" for name in _ETC), *sorted(set(both))]


def uncounted(data: DataConfig) -> str:
    """Return why the kernel cannot limit the number of a reward's processes here; "" if it can."""
    if data.sandbox == "none":
        return 'it counts them with all others of the user; data.sandbox = "bwrap" changes that'
    if os.geteuid() == 0:
        return "the run's user is root"
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    return "" if release >= COUNTS_FROM else "this Linux is older than 5.14"


def doubts(data: DataConfig) -> Iterator[str]:
    """Yield a note if this machine cannot limit the processes of a reward."""
    if reason := uncounted(data):
        limit = f"more than {MAX_PROCESSES} are ended within a second"
        yield f"the number of a reward's processes is looked at and not limited by the kernel, {limit}: {reason}"
