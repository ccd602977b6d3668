"""A run file of one's own, with data, reward and a model, as a user has it."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from isentrope import long_waits


@pytest.fixture(autouse=True)
def nothing_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine add no lines about waits to what a test reads."""
    monkeypatch.setattr(long_waits, "SAY_S", 100_000.0)


@pytest.fixture(autouse=True)
def no_log_of_a_command() -> Iterator[None]:
    """Take away the handler that a command sets up, whose stream ends with its test."""
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)


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

def graded(prompts, completions, **columns):
    return [{"reward": 0.25, "accuracy": 1.0} for _ in prompts]

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


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's configuration and tokenizer with room for 4096 tokens, and a file of weights that nothing loads."""
    from isentrope.demo.model import WEIGHTS, write_skeleton

    folder = tmp_path_factory.mktemp("models") / "model"
    write_skeleton(folder)
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | {"max_position_embeddings": 4096}))
    save_file({"weight": np.zeros(4, np.float32)}, folder / WEIGHTS)
    return folder


@pytest.fixture
def run_file(tmp_path: Path, model_folder: Path) -> Path:
    """Everything is in order; tests break one thing."""
    (tmp_path / "run.toml").write_text(RUN)
    (tmp_path / "rewards.py").write_text(REWARDS)
    rows = [{"prompt": "7 > 2 :", "answer": "+3 0"}, {"prompt": "1 > 2 :", "answer": "+1 2"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(model_folder, tmp_path / "model")
    return tmp_path / "run.toml"
