"""Any model is evaluated without a run: a folder by the settings of the command line, a run's version by the run's."""

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from run_records import make_run_record
from tiny_model import Version

from isentrope import evaluation
from isentrope.actors.groups import GroupMaker
from isentrope.errors import ConfigError, DataError, RewardError
from isentrope.evaluation import Evaluation, Request
from isentrope.learner import json_files
from isentrope.learner.records import EvalRow
from isentrope.model_folder import Origin, export
from isentrope.rollout.config import ModelConfig
from isentrope.rollout.data.prompts import PromptTooLongError
from isentrope.rollout.data.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine
    from isentrope.actors.scoring import Scorer

pytestmark = pytest.mark.slow

SETTINGS = ("data.reward=rewards:length", "sampling.max_new_tokens=13", "model.max_model_len=512")


@pytest.fixture(scope="module")
def model(model_dir: Path, versions: list[Version], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first version as a model folder."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(versions[0].manifest, Origin(str(model_dir), ModelConfig(path=str(model_dir))), folder)
    return folder


def _request(place: Path, run_folder: Path, data: str = "train", *, samples: int = 4, **overrides: str) -> Request:
    further = [f"{key.replace('__', '.')}={value}" for key, value in overrides.items()]
    settings = (*SETTINGS, f"run.base_dir={run_folder}", *further)
    return Request(place, str(run_folder / f"{data}.jsonl"), samples, overrides=settings)


class Evaluate:
    """Evaluations by the session's engine and rewards. shown: what was told of the progress."""

    def __init__(self, runner: asyncio.Runner, engine: "Engine", scorer: "Scorer") -> None:
        self.shown: list[tuple[int, int]] = []
        self._runner = runner
        self._engine = engine
        self._scorer = scorer

    def __call__(self, request: Request) -> EvalRow:
        (row,) = self._runner.run(self._evaluate(evaluation.prepare(request)))
        return row

    async def _evaluate(self, prepared: Evaluation) -> list[EvalRow]:
        await self._engine.load(prepared.manifest)
        tokenizer = load_tokenizer(prepared.spec.model_dir, chat=prepared.spec.model)
        maker = GroupMaker(
            prepared.spec, engine=self._engine, scorer=self._scorer, prompts=prepared.prompts, tokenizer=tokenizer
        )
        return await evaluation.figures(prepared, maker, lambda done, count: self.shown.append((done, count)))


@pytest.fixture
def evaluate(runner: asyncio.Runner, engine: "Engine", scorer: "Scorer") -> Evaluate:
    return Evaluate(runner, engine, scorer)


def test_a_run_and_the_model_it_left_have_the_same_figures(
    evaluate: Evaluate, model: Path, versions: list[Version], run_folder: Path, tmp_path: Path
) -> None:
    of_model = evaluate(_request(model, run_folder))
    assert evaluate.shown == [(done, 4) for done in range(1, 5)]
    assert (of_model.prompts, of_model.samples, set(of_model.pass_at)) == (4, 4, {1, 2, 4})
    assert of_model.reward > 0 and 0 < of_model.pass_at[1] <= of_model.pass_at[4]
    json_files.write(tmp_path, make_run_record())
    (tmp_path / "weights").symlink_to(Path(versions[0].manifest.folder).parent)
    (tmp_path / "run.toml").write_text(
        f'[run]\nname = "mine"\nbase_dir = "{run_folder}"\n[model]\npath = "{model}"\ndtype = "float32"\n'
        'max_model_len = 512\n[data]\ntrain = "broken.jsonl"\neval = "train.jsonl"\nreward = "rewards:length"\n'
        "[sampling]\nmax_new_tokens = 13\n"
    )
    of_run = evaluate(Request(tmp_path, samples=4, version="0"))
    assert of_run == of_model.model_copy(update={"version": of_run.version})
    assert evaluate(Request(tmp_path, samples=4)) != of_run  # the newest version answers otherwise


def test_a_prompt_that_is_too_long_is_refused_or_left_out(evaluate: Evaluate, model: Path, run_folder: Path) -> None:
    with pytest.raises(PromptTooLongError):
        evaluate(_request(model, run_folder, "mixed"))
    row = evaluate(_request(model, run_folder, "mixed", data__too_long="skip"))
    assert row.prompts == 3 and evaluate.shown[-1] == (4, 4)
    with pytest.raises(DataError, match="no prompt was answered; the first: the prompt has"):
        evaluate(_request(model, run_folder, "long", data__too_long="skip"))


def test_rewards_that_fail_end_the_evaluation(evaluate: Evaluate, model: Path, run_folder: Path) -> None:
    with pytest.raises((RewardError, DataError), match="as the row wants it"):
        evaluate(_request(model, run_folder, "broken"))


def test_what_cannot_be_evaluated_is_refused_before_an_engine_starts(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a model, which has no data"):
        evaluation.prepare(Request(model_dir))
    with pytest.raises(ConfigError, match=r"there is no file none\.jsonl"):
        evaluation.prepare(Request(model_dir, "none.jsonl"))
    with pytest.raises(ConfigError, match="there is no folder or file org/model") as refused:
        evaluation.prepare(Request(Path("org/model"), "task:digit_walk"))
    assert "download" in refused.value.fix
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    with pytest.raises(ConfigError, match="nothing says what rewards") as refused:
        evaluation.prepare(Request(model_dir, str(tmp_path / "data.jsonl")))
    assert "data.reward=exact_match" in refused.value.fix
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not that of a model"):
        evaluation.prepare(Request(tmp_path, "task:digit_walk"))
    shutil.copyfile(model_dir / "config.json", tmp_path / "config.json")
    with pytest.raises(ConfigError, match="has no weights as safetensors"):
        evaluation.prepare(Request(tmp_path, "task:digit_walk"))


def test_a_model_takes_a_length_it_has_room_for_and_the_settings_of_the_run_that_left_it(
    model: Path, run_folder: Path, tmp_path: Path
) -> None:
    alone = evaluation.prepare(Request(model, "task:digit_walk", overrides=["model.max_model_len=64"]))
    assert alone.spec.sampling.max_new_tokens == 32
    shutil.copytree(model, tmp_path / "final")
    (tmp_path / "run.toml").write_text(
        f'[run]\nname = "mine"\nbase_dir = "{run_folder}"\n[model]\npath = "gone"\ndtype = "float32"\n'
        'max_model_len = 512\n[data]\ntrain = "train.jsonl"\neval = "train.jsonl"\nreward = "rewards:length"\n'
        "[sampling]\nmax_new_tokens = 13\n"
    )
    left = evaluation.prepare(Request(tmp_path / "final"))
    assert left.spec.sampling.max_new_tokens == 13 and left.spec.data.reward == "rewards:length"
    assert left.prompts.eval_count == 4 and left.manifest.folder == str(tmp_path / "final")
