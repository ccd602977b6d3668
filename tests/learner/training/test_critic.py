"""A critic beside the policy, at every ZeRO stage: one launch of two ranks for all of them."""

import json
from typing import Any

import pytest
from toy_run import launch, make_model

pytestmark = pytest.mark.slow
STAGES = ["0", "1", "2", "3"]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks saw, by stage."""
    folder = tmp_path_factory.mktemp("critic")
    results = folder / "results.json"
    arguments = [str(make_model(folder / "model")), str(folder), str(results), *STAGES]
    ranks = launch("rank_critic.py", arguments, folder / "log.txt", ranks=2)
    assert ranks.wait() == 0, ranks.text()
    found: dict[str, Any] = json.loads(results.read_text())
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_its_gradient_is_that_of_one_plain_process(facts: dict[str, Any], stage: str) -> None:
    assert facts[stage]["error"] < 1e-5


@pytest.mark.parametrize("stage", STAGES)
def test_the_policy_has_the_same_bits_beside_it(facts: dict[str, Any], stage: str) -> None:
    assert facts[stage]["alone"] == [True, True]


@pytest.mark.parametrize("stage", STAGES)
def test_it_begins_with_0_and_is_trained_in_every_update_of_the_policy(facts: dict[str, Any], stage: str) -> None:
    assert facts[stage]["values"] == 0
    assert facts[stage]["updates"] == [2, 2]
    assert facts[stage]["losses"][1] < facts[stage]["losses"][0], "the second epoch is of the same groups"


@pytest.mark.parametrize("stage", STAGES)
def test_both_resumed_go_on_bit_by_bit(facts: dict[str, Any], stage: str) -> None:
    assert facts[stage]["saved"] == ["", ""] and facts[stage]["files"]
    assert facts[stage]["bitwise"] == [True, True]
    assert facts[stage]["same_values"]
    assert facts[stage]["moved"][0] == "critic" and len(facts[stage]["moved"]) > 1


def test_stages_give_nearly_the_same_loss(facts: dict[str, Any]) -> None:
    losses = [facts[stage]["losses"][-1] for stage in STAGES]
    assert max(losses) == pytest.approx(min(losses), rel=1e-4)
