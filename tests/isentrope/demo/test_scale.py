"""Adjustments reach a kind whatever preset brought it in, and no key that the run file sets itself."""

from pathlib import Path
from typing import Any

import pytest

from isentrope.demo.scale import Adjusted, Adjustment, adjust
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import build, load_objective

SMALL = [
    Adjustment(at="kl.tokens.top_cov", keys={"share": 0.05}, why="fewer tokens"),
    Adjustment(at="tokens.top_entropy", keys={"keep": 0.5}, why="half are forks"),
    Adjustment(at="advantage.scale.signs", run={"learning_rate": 5e-5}, why="no baseline"),
    Adjustment(at="control.entropy_pi", keys={"target": 0.45, "kp": 4.0}, why="a higher entropy"),
    Adjustment(at="clip.ppo", keys={"high": 0.3}, why="a test"),
]


def adjusted(methods: list[str], **own: Any) -> tuple[Adjusted, Objective]:
    found = adjust(methods, own, SMALL, Path("/"))
    merged = load_objective(methods, found.objective, Path("/"))
    return found, build(merged, Path("/"), max_new_tokens=13)


@pytest.mark.parametrize("methods", [["kl_cov"], ["advanced"], ["dapo", "kl_cov"]])
def test_a_share_of_tokens_is_adjusted_in_the_term_that_has_it(methods: list[str]) -> None:
    found, objective = adjusted(methods)
    assert objective.kl[0].tokens is not None and objective.kl[0].tokens.params["share"] == 0.05
    assert objective.kl[0].keys.coef == 1.0
    assert "kl.tokens.top_cov: share = 0.05; fewer tokens" in found.lines


def test_a_key_that_no_preset_sets_can_be_left_alone() -> None:
    changes = [Adjustment(at="critic.clipped", keys={"warmup_batches": 10}, only_set=True, why="a test")]
    for method, lines in (("vapo", ("critic.clipped: warmup_batches = 10; a test",)), ("ppo", ())):
        found = adjust(method, {}, changes, Path("/"))
        assert found.lines == lines
        critic = build(load_objective(method, found.objective, Path("/")), Path("/"), max_new_tokens=13).critic
        assert critic.params["warmup_batches"] == (10 if lines else 0)
    own = {"critic": {"warmup_batches": 3}}
    assert adjust("vapo", own, changes, Path("/")).lines == ()


def test_what_is_not_used_is_not_adjusted() -> None:
    found, objective = adjusted(["kl_cov"])
    assert objective.tokens == () and found.run == {}
    assert not any("top_entropy" in line or "clip" in line for line in found.lines)


def test_several_dimensions_at_once() -> None:
    found, objective = adjusted(["starter"])
    assert objective.tokens[0].params["keep"] == 0.5
    assert objective.clip.params == {"low": 0.2, "high": 0.3, "dual": None}
    assert found.run == {"learning_rate": 5e-5}
    _, controlled = adjusted(["advanced"])
    assert controlled.control[0].params["target"] == 0.45 and controlled.control[0].params["ki"] == 0.01


@pytest.mark.parametrize("tokens", [{"top_entropy": {"keep": 0.1}}, [{"kind": "top_entropy", "keep": 0.1}]])
def test_the_run_files_own_keys_win(tokens: Any) -> None:
    found, objective = adjusted(["starter"], tokens=tokens, clip={"low": 0.1})
    assert objective.tokens[0].params["keep"] == 0.1
    assert objective.clip.params["low"] == 0.1 and objective.clip.params["high"] == 0.3
    assert not any("top_entropy" in line for line in found.lines)


def test_a_dimension_written_as_a_word_stays_what_it_is() -> None:
    _, objective = adjusted(["dapo"], clip="ppo", tokens=["top_entropy"])
    assert objective.clip.params["high"] == 0.3 and objective.tokens[0].params["keep"] == 0.5
