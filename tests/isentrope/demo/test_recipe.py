"""The demo's configuration is its run file plus what the command line changes, and nothing else."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.config import Config
from isentrope.demo import recipe
from isentrope.demo.recipe import Options
from isentrope.learner.objective.needs import PROVIDED, needs
from isentrope.learner.objective.presets import method_names
from isentrope.learner.objective.run import open_objective

TABLES = st.recursive(
    st.integers(), lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3), max_leaves=6
).filter(lambda table: isinstance(table, dict))


def built(output_dir: Path, options: Options) -> Config:
    return Config.model_validate(recipe.table(output_dir, options))


def test_run_file_is_valid_as_it_stands() -> None:
    config = Config.model_validate(tomllib.loads(recipe.RUN_FILE.read_text(encoding="utf-8")))
    assert config.learner.mode == "async"
    assert config.data.train == "task:digit_walk"


def test_without_options_only_places_change(tmp_path: Path) -> None:
    plain = Config.model_validate(tomllib.loads(recipe.RUN_FILE.read_text(encoding="utf-8")))
    config = built(tmp_path, Options())
    assert config.run.output_dir == str(tmp_path)
    assert config.model.path == str(tmp_path / "model")
    unplaced = {"run": {"output_dir"}, "model": {"path"}}
    assert config.model_dump(exclude=unplaced) == plain.model_dump(exclude=unplaced)


def test_every_option_reaches_its_key(tmp_path: Path) -> None:
    options = Options(method=("dr_grpo", "kl_cov"), mode="on_policy", batches=7, seed=5, actors=2, ranks=1)
    config = built(tmp_path, options)
    assert config.learner.method == ["dr_grpo", "kl_cov"]
    assert (config.learner.mode, config.learner.batches, config.learner.ranks) == ("on_policy", 7, 1)
    assert (config.run.seed, config.actors.count) == (5, 2)


def test_seed_zero_is_an_answer_not_an_omission(tmp_path: Path) -> None:
    assert built(tmp_path, Options(seed=0)).run.seed == 0


@given(TABLES, TABLES)
def test_merged_takes_from_the_second_and_keeps_the_rest_of_the_first(
    base: dict[str, object], changes: dict[str, object]
) -> None:
    both = recipe.merged(base, changes)
    assert recipe.merged(both, changes) == both
    assert set(both) == set(base) | set(changes)
    for key, value in changes.items():
        if not isinstance(value, dict):
            assert both[key] == value


@given(TABLES)
def test_merged_leaves_its_arguments_alone(base: dict[str, object]) -> None:
    before = repr(base)
    recipe.merged(base, {"a": {"b": 1}})
    assert repr(base) == before


@pytest.mark.parametrize("method", method_names())
def test_every_method_fits_the_demo_or_is_refused_for_what_it_needs(tmp_path: Path, method: str) -> None:
    values, _ = recipe.toy_scaled(recipe.table(tmp_path, Options(method=(method,))))
    config = Config.model_validate(values)
    opened = open_objective(config.learner, config.sampling, run_folder=tmp_path, evaluates=True)
    missing = [need for need in needs(opened.objective) if need not in PROVIDED]
    assert len(opened.verdict.refusals) == len(missing)


def test_what_is_changed_for_the_demos_size_is_said() -> None:
    values, lines = recipe.toy_scaled(recipe.table(Path("/nowhere"), Options(method=("dapo", "kl_cov"))))
    assert any(line.startswith("kl.tokens.top_cov: share = 0.05; ") for line in lines)
    assert any(line.startswith("reward.soft_overlong: factor = 0.0; ") for line in lines)
    objective = Config.model_validate(values).learner.objective
    assert objective["reward"] == [{"kind": "soft_overlong", "factor": 0.0}]


def test_the_default_method_needs_no_change_of_scale() -> None:
    values, lines = recipe.toy_scaled(recipe.table(Path("/nowhere"), Options()))
    assert lines == ()
    assert Config.model_validate(values) == Config.model_validate(recipe.table(Path("/nowhere"), Options()))
