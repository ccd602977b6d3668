"""What a run with a critic is told before it starts."""

from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from isentrope.capacity.model_memory import model_facts, training_bytes
from isentrope.check import critic
from isentrope.check.model import Model
from isentrope.check.source import find
from isentrope.config import load
from isentrope.errors import ConfigError


def small(tokens: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1, vocab_size=tokens
    )


def told(run_file: Path, model: Path, *overrides: str, vocabulary: int = 50) -> str:
    config, file = load(run_file, (f"model.path='{model}'", "model.dtype='float32'", *overrides))
    known = Model(str(model), vocabulary, 64)
    return critic.examined(config, known, find(config.model.path, file), file)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    LlamaForCausalLM(small(50)).save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_its_memory_is_told_for_each_rank(run_file: Path, model: Path) -> None:
    for ranks, stage in ((1, 0), (4, 3)):
        size = training_bytes(model_facts(small(50), "float32"), ranks=ranks, zero_stage=stage)
        line = told(run_file, model, f"learner.ranks={ranks}", f"learner.zero_stage={stage}")
        assert f"{size / 1e9:.3g} GB more on each rank" in line


def test_a_model_of_its_own_is_found_and_must_know_the_tokens(run_file: Path, model: Path, tmp_path: Path) -> None:
    LlamaForCausalLM(small(40)).save_pretrained(tmp_path / "own")
    own = f"learner.critic.path='{tmp_path / 'own'}'"
    with pytest.raises(ConfigError, match="own knows 40 tokens, and the policy 50") as refused:
        told(run_file, model, own)
    assert refused.value.where.endswith("learner.critic.path")
    assert "GB more" in told(run_file, model, own, vocabulary=40)
    with pytest.raises(ConfigError, match="there is no model folder") as missing:
        told(run_file, model, "learner.critic.path='./nothing'")
    assert missing.value.where.endswith("learner.critic.path")
