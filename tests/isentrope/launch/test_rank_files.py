"""Ranks on a machine that sees the run's folder alone: what they are given is what the run was started with."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import make_job, make_model

from isentrope.actors.run_files import Places
from isentrope.check.findings import Checked
from isentrope.check.model import Model
from isentrope.config import load
from isentrope.errors import ConfigError
from isentrope.launch.bundle import make_bundle
from isentrope.launch.rank_files import MODEL, put_model, with_files, with_fixed_methods
from isentrope.learner.config import LearnerConfig
from isentrope.learner.objective.presets import build, load_objective
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.model import load_policy
from isentrope.rollout.data.prompts import open_prompts
from isentrope.rollout.data.tokenizer import load_tokenizer

RUN_FILE = """
[run]
name = "mine"
[model]
path = "model"
[data]
train = "train.jsonl"
reward = "scores:longer"
correct = "nothing"
[learner]
method = ["grpo", "own.toml"]
"""

OWN = """objective = { reward = [{ kind = "stages:halved" }] }"""


@dataclasses.dataclass
class Site:
    """The machine of the command, its run, and a folder that other machines see too."""

    alone: Path
    output_dir: Path
    job: LearnerJob
    digest: str

    def hide(self) -> None:
        """Become another machine, which sees the run's folder alone."""
        self.alone.rename(self.alone.with_name("elsewhere"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    alone, output_dir = tmp_path / "alone", tmp_path / "shared" / "run"
    alone.mkdir()
    output_dir.mkdir(parents=True)
    model = make_model(alone / "model")
    rows = '{"prompt": "1 + 1 =", "answer": "2"}\n' * 4
    files = {"run.toml": RUN_FILE, "train.jsonl": rows, "own.toml": OWN, "scores.py": "", "stages.py": STAGES}
    for name, text in files.items():
        (alone / name).write_text(text)
    config, file = load(alone / "run.toml")
    bundle = make_bundle(Checked(config, file, "", "", Model(str(model), 10, 10), ()), output_dir)
    job = make_job("mine", "unix:///nowhere", model, output_dir, method=["grpo", "own.toml"])
    facts: dict[str, Any] = {"data": config.data, "run_folder": str(alone), "bundle": bundle}
    spec = job.spec.model_copy(update={**facts, "depots": (f"file://{output_dir}",)})
    digest = open_prompts(spec.data, run_folder=alone, seed=spec.seed).digest
    return Site(alone, output_dir, dataclasses.replace(job, spec=spec), digest)


STAGES = """
def halved(reward):
    return reward / 2
"""


def weights(folder: str) -> dict[str, torch.Tensor]:
    policy = load_policy(folder, dtype=torch.float32, device=torch.device("cpu"), gradient_checkpointing=False)
    return dict(policy.network.named_parameters())


def test_a_rank_elsewhere_has_data_methods_stages_tokenizer_and_weights(site: Site, tmp_path: Path) -> None:
    before = weights(site.job.spec.model_dir)
    put_model(site.alone / "model", site.output_dir)
    site.hide()
    with with_files(site.job, Places(cache=tmp_path / "cache")) as job:
        folder = Path(job.local.run_folder)
        assert folder.is_relative_to(tmp_path / "cache")
        assert open_prompts(job.local.data, run_folder=folder, seed=job.spec.seed).digest == site.digest
        merged = load_objective(job.config.method, {}, folder)
        assert build(merged, folder, max_new_tokens=8).reward
        assert load_tokenizer(job.local.model_dir, chat=job.local.model) is not None
        assert job.local.model_dir == str(site.output_dir / MODEL)
        after = weights(job.local.model_dir)
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert job.spec is site.job.spec, "what the run announces has no paths of one machine"


def test_what_lies_in_the_runs_folder_is_put_there_once_and_takes_no_room(site: Site) -> None:
    put_model(site.alone / "model", site.output_dir)
    there = {path.name: path.stat() for path in (site.output_dir / MODEL).iterdir()}
    assert there.keys() == {path.name for path in (site.alone / "model").iterdir()}
    assert all(os.path.samestat(each, (site.alone / "model" / name).stat()) for name, each in there.items())
    put_model(site.alone / "model", site.output_dir)
    assert {path.name: path.stat().st_ctime_ns for path in (site.output_dir / MODEL).iterdir()} == {
        name: each.st_ctime_ns for name, each in there.items()
    }


def test_a_model_that_a_machine_sees_is_used_where_it_is(site: Site, tmp_path: Path) -> None:
    put_model(site.alone / "model", site.output_dir)
    with with_files(site.job, Places(cache=tmp_path / "cache")) as job:
        assert job.local.model_dir == str(site.alone / "model")


def test_ranks_of_the_commands_own_machine_fetch_nothing(site: Site) -> None:
    with with_files(site.job, None) as job:
        assert job is site.job and job.local is job.spec


def test_a_machine_without_the_runs_folder_is_refused_by_its_name(site: Site, tmp_path: Path) -> None:
    site.output_dir.rename(tmp_path / "unmounted")
    with pytest.raises(ConfigError, match="no folder"), with_files(site.job, Places(cache=tmp_path / "cache")):
        pass


@pytest.mark.parametrize(
    ("method", "fixed"),
    [
        ("grpo", "grpo"),
        ("own.toml", "own.toml"),
        ("../shared.toml", "{above}/shared.toml"),
        (["grpo", "/abs/own.toml"], ["grpo", "/abs/own.toml"]),
    ],
)
def test_a_method_outside_the_run_files_folder_is_looked_for_where_it_is(
    tmp_path: Path, method: Any, fixed: Any
) -> None:
    found = with_fixed_methods(LearnerConfig(method=method), tmp_path / "run").method
    assert found == (fixed.format(above=tmp_path) if isinstance(fixed, str) else fixed)
