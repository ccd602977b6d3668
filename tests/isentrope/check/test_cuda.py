"""What keeps torch and Triton from starting on a machine with GPUs is told, on machines without one too."""

import sysconfig
from pathlib import Path

import pytest
import torch

from isentrope.check import cuda
from isentrope.check.findings import Findings
from isentrope.config import load


@pytest.fixture
def gpu_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a GPU, CUDA 13's driver, and what its folder `bin` holds: a compiler that always succeeds."""
    monkeypatch.setattr(cuda, "has_gpu", lambda: True)
    monkeypatch.setattr(cuda, "driver_cuda", lambda: 13000)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    headers = tmp_path / "include"
    headers.mkdir()
    (headers / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(headers)})
    _compiler(tmp_path / "bin" / "gcc", "exit 0")
    return tmp_path


def _compiler(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def _told() -> list[str]:
    return [error.what for error in cuda.failures()]


@pytest.mark.usefixtures("gpu_machine")
def test_a_machine_with_all_of_it_passes() -> None:
    assert _told() == []


def test_a_path_without_a_compiler(gpu_machine: Path) -> None:
    (gpu_machine / "bin" / "gcc").unlink()
    (told,) = _told()
    assert told.startswith("no C compiler: Triton needs one")
    _compiler(gpu_machine / "bin" / "clang", "exit 0")
    assert _told() == []


def test_the_compiler_of_the_users_comes_first(gpu_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(gpu_machine / "none"))
    (told,) = _told()
    assert told.startswith(f"{gpu_machine}/none cannot compile") and "No such file" in told


def test_a_python_without_its_headers(gpu_machine: Path) -> None:
    (gpu_machine / "include" / "Python.h").unlink()
    (told,) = _told()
    assert told.startswith(f"no Python.h in {gpu_machine}/include")


def test_a_compiler_without_the_c_librarys_headers(gpu_machine: Path) -> None:
    _compiler(gpu_machine / "bin" / "gcc", "echo 'launcher.c:2: fatal error: stdlib.h: No such file' >&2; exit 1")
    (told,) = _told()
    assert "fatal error: stdlib.h" in told


@pytest.mark.parametrize(("served", "fails"), [(12080, True), (13000, False), (13020, False), (14000, False)])
@pytest.mark.usefixtures("gpu_machine")
def test_a_driver_that_is_too_old_for_torchs_cuda(monkeypatch: pytest.MonkeyPatch, served: int, fails: bool) -> None:
    monkeypatch.setattr(cuda, "driver_cuda", lambda: served)
    expected = f"serves CUDA 12.8, and torch {torch.__version__} is built for CUDA 13.0"
    assert [expected in told for told in _told()] == [True] * fails


@pytest.mark.usefixtures("gpu_machine")
def test_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    (told,) = _told()
    assert "is built without CUDA" in told


@pytest.mark.usefixtures("gpu_machine")
def test_a_container_without_the_drivers_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> int:
        raise OSError(f"{cuda.DRIVER}: cannot open shared object file")

    monkeypatch.setattr(cuda, "driver_cuda", none)
    (told,) = _told()
    assert cuda.DRIVER in told


def test_nothing_is_wanted_without_a_gpu(gpu_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (gpu_machine / "bin" / "gcc").unlink()
    monkeypatch.setattr(cuda, "has_gpu", lambda: False)
    assert _told() == []


def test_a_run_on_processor_cores_needs_no_compiler(gpu_machine: Path, run_file: Path) -> None:
    (gpu_machine / "bin" / "gcc").unlink()
    for value, fails in (("auto", True), ("false", False)):
        stages = Findings(*load(run_file, [f"cluster.gpus={value}"])).stages()
        errors = next(errors for name, errors in stages if name == "machine")
        assert any("no C compiler" in str(error) for error in errors or ()) == fails
