"""A run file of one's own, with data, reward and a model, as a user has it."""

import json
from pathlib import Path

import pytest

RUN = """
[run]
name = "mine"

[model]
path = "model"
dtype = "float32"

[data]
train = "train.jsonl"
reward = "rewards:exact"

[sampling]
max_new_tokens = 8

[learner]
updates_per_batch = 2
batches = 2
"""

REWARDS = """
def exact(prompts, completions, answer, **columns):
    return [float(right == given) for right, given in zip(answer, completions)]

def raises(prompts, completions, **columns):
    raise KeyError("no such thing")

def nothing(prompts, completions, **columns):
    return [None for _ in prompts]

def nan(prompts, completions, **columns):
    return [float("nan") for _ in prompts]

def hangs(prompts, completions, **columns):
    import time
    time.sleep(100_000)

def needs_label(prompts, completions, label, **columns):
    return [0.0 for _ in prompts]
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """Everything is in order; tests break one thing."""
    (tmp_path / "run.toml").write_text(RUN)
    (tmp_path / "rewards.py").write_text(REWARDS)
    rows = [{"prompt": "7 > 2 :", "answer": "+3 0"}, {"prompt": "1 > 2 :", "answer": "+1 2"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "model").mkdir()
    facts = {"vocab_size": 46, "max_position_embeddings": 4096}
    (tmp_path / "model" / "config.json").write_text(json.dumps(facts))
    return tmp_path / "run.toml"
