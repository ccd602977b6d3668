"""No option that does nothing: some code reads every key, or a run that sets it is refused by the key's name."""

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
from source_files import Source

from isentrope.config import Config
from isentrope.learner.config import LearnerConfig
from isentrope.learner.objective.dimensions import AUX_SETS, CHOICES, DIMENSIONS, KL_TOKENS, KlKeys
from isentrope.learner.objective.run import open_objective, refusals
from isentrope.learner.objective.schema import Kind
from isentrope.learner.training.alarms import ALARMS
from isentrope.rollout.config import SamplingConfig
from isentrope.runfile import known_keys

KINDS = {f"{path}.{name}": kind for path, each in DIMENSIONS.items() for name, kind in each.kinds.items()}
KINDS |= {f"kl.tokens.{name}": kind for name, kind in KL_TOKENS.items()}
KINDS |= {f"aux (set).{name}": kind for name, kind in AUX_SETS.items()}

REPLAYED = ("ratio.routing",)
"""Keys that wait for replay."""


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_key_of_a_stage_is_read_by_it_or_by_what_runs_it(kind: Kind, sources: list[Source]) -> None:
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(kind.function))).body
    assert isinstance(function, ast.FunctionDef)
    read = {node.id for line in function.body for node in ast.walk(line) if isinstance(node, ast.Name)}
    by_name = {name for source in sources if source.folder == "learner" for name in _params(source.tree)}
    assert set(kind.keys.model_fields) <= read | by_name


@pytest.mark.parametrize("key", REPLAYED)
def test_replay_is_refused_by_the_name_of_its_key_with_reason_and_remedy(key: str) -> None:
    name = key.partition(".")[2]
    for value in CHOICES[key].words[1:]:
        learner = LearnerConfig(method="grpo", objective={"ratio": {name: value}})
        opened = open_objective(learner, SamplingConfig(), run_folder=Path("/"), evaluates=True)
        (error,) = refusals(opened)
        assert error.exit_code == 64
        assert key in error.where and "replay" in error.what and error.fix == f'set {key} = "none"'


def test_the_learner_reads_each_key_of_the_objective_that_no_stage_reads(sources: list[Source]) -> None:
    read = {name for source in sources if source.folder == "learner" for name in _attributes(source.tree)}
    assert {key.rpartition(".")[2] for key in CHOICES if key not in REPLAYED} | set(KlKeys.model_fields) <= read


def test_some_code_reads_each_key_of_the_run_file(sources: list[Source]) -> None:
    """By the key's last name: what is passed on whole is read where it arrives; bounds, by the name of the alarm."""
    read = {name for source in sources for name in _attributes(source.tree)} | {alarm.name for alarm in ALARMS}
    assert [key for key in known_keys(Config) if key.rpartition(".")[2] not in read] == []


def _params(tree: ast.Module) -> set[str]:
    """Return the keys that are taken from the parameters of a stage: `.params["key"]`, `.params.get("key")`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Attribute(attr="params"), slice=ast.Constant(value=str(key))):
                found.add(key)
            case ast.Call(
                func=ast.Attribute(value=ast.Attribute(attr="params"), attr="get"),
                args=[ast.Constant(value=str(key)), *_],
            ):
                found.add(key)
    return found


def _attributes(tree: ast.Module) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
