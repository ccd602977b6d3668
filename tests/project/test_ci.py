"""Hosted CI runs what anybody can: its workflow is a valid one, and its only step of its own is `.ci/run`."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from programs import program
from source_files import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
RUN = ROOT / ".ci" / "run"


def test_the_workflow_is_valid_and_a_wrong_key_is_found(tmp_path: Path) -> None:
    check = program("check-jsonschema", "the workflow of hosted CI is not checked")
    schema = [check, "--builtin-schema", "vendor.github-workflows"]
    found = subprocess.run([*schema, WORKFLOW], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    (tmp_path / "ci.yml").write_text(WORKFLOW.read_text().replace("runs-on", "run-on"))
    assert subprocess.run([*schema, tmp_path / "ci.yml"], capture_output=True).returncode == 1


def test_actionlint_finds_nothing() -> None:
    if shutil.which("actionlint") is None:
        pytest.skip("actionlint is not installed: expressions and runners of hosted CI are not checked")
    found = subprocess.run(["actionlint", WORKFLOW], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_it_runs_the_command_of_any_machine_on_each_python_that_is_promised() -> None:
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [RUN.relative_to(ROOT).as_posix()]
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    promised = [each.rpartition(" ")[2] for each in told if each.startswith("Programming Language :: Python :: 3.")]
    assert job["strategy"]["matrix"]["python"] == promised


def test_the_command_of_any_machine_is_a_sound_script() -> None:
    subprocess.run([program("shellcheck", "the script of CI is not checked"), RUN], check=True)
