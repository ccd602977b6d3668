"""Models that change their logits after the output layer are refused by their configuration."""

import pytest
from transformers import AutoConfig

from isentrope.errors import ConfigError
from isentrope.learner.training.logits import require_plain_logits


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma3_text", "mistral", "gpt2", "phi", "olmo2", "opt"])
def test_plain_architectures_pass(name: str) -> None:
    require_plain_logits(AutoConfig.for_model(name), "")


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("gemma2", {}, "final_logit_softcapping = 30.0"),
        ("gemma3_text", {"final_logit_softcapping": 20.0}, "final_logit_softcapping = 20.0"),
        ("recurrent_gemma", {}, "logits_soft_cap = 30.0"),
        ("granite", {"logits_scaling": 8.0}, "logits_scaling = 8.0"),
        ("cohere", {}, "logit_scale = 0.0625"),
        ("falcon_h1", {"lm_head_multiplier": 0.5}, "lm_head_multiplier = 0.5"),
    ],
)
def test_others_are_refused_with_the_key(name: str, changes: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_plain_logits(AutoConfig.for_model(name, **changes), "run.toml:6: model.path")
    assert told in caught.value.what and caught.value.where == "run.toml:6: model.path"


def test_a_factor_of_one_changes_nothing() -> None:
    require_plain_logits(AutoConfig.for_model("granite", logits_scaling=1.0), "")
