"""Advice about other trainers' keys leads to keys that exist."""

import pytest

from isentrope.config import Config
from isentrope.learner.objective.dimensions import DIMENSIONS
from isentrope.peer_names import HERE, TOLD, advice
from isentrope.runfile import known_keys

KNOWN = set(known_keys(Config))


@pytest.mark.parametrize("name", sorted(HERE))
def test_the_key_exists_here_and_the_other_name_does_not(name: str) -> None:
    key = HERE[name]
    stage = key.removeprefix("learner.objective.")
    if stage == key:
        assert key in KNOWN
    else:
        path, _, parameter = stage.rpartition(".")
        assert any(parameter in kind.keys.model_fields for kind in DIMENSIONS[path].kinds.values())
    assert name not in {known.rpartition(".")[2] for known in KNOWN}


@pytest.mark.parametrize("name", sorted(TOLD))
def test_keys_that_advice_names_exist(name: str) -> None:
    words = TOLD[name].replace("[", " ").replace("]", " ").replace(":", " ").replace(",", " ").split()
    for word in words:
        if "." in word and not word.startswith("learner.objective.") and word.partition(".")[0] in KNOWN:
            assert word in KNOWN, word


@pytest.mark.parametrize(
    "name",
    [
        *("num_train_epochs", "total_epochs", "ppo_mini_batch_size"),
        *("gradient_accumulation_steps", "per_device_train_batch_size", "epsilon", "clip_ratio"),
        *("max_prompt_length", "n_gpus_per_node"),
    ],
)
def test_a_setting_of_another_unit_is_not_called_a_key_of_this(name: str) -> None:
    assert name not in HERE and name in TOLD


def test_whatever_the_case() -> None:
    assert advice("LR") == "it is called learner.learning_rate here"
    assert advice("something") == ""


def test_the_stages_that_advice_names() -> None:
    assert {"group_std", "none"} <= DIMENSIONS["advantage.scale"].kinds.keys()
    assert "k3" in DIMENSIONS["kl"].kinds
