"""A folder that is missing on a machine is told as that by whatever opens it, never as a wrong id of the Hub."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isentrope.errors import ConfigError, DataError
from isentrope.learner.training.model import load_policy
from isentrope.model_folder import Origin, _own_files
from isentrope.rollout.config import ModelConfig
from isentrope.rollout.data.model_place import require_here
from isentrope.rollout.data.tables import open_table
from isentrope.rollout.data.tokenizer import load_tokenizer


def _load_policy(model: str) -> object:
    return load_policy(model, dtype=torch.float32, device=torch.device("cpu"), gradient_checkpointing=False)


def _start_engine(model: str) -> object:
    from isentrope.actors.engine_host import EngineOptions, _start_vllm

    return _start_vllm(EngineOptions(model_dir=model, dtype="float32"))


@pytest.mark.parametrize(
    "load",
    [
        load_tokenizer,
        _load_policy,
        pytest.param(_start_engine, marks=pytest.mark.slow),  # imports vLLM
        lambda model: _own_files(Origin(model, ModelConfig(path=model)).path),
        require_here,
    ],
)
def test_a_missing_model_folder_and_the_machine_are_named(load: Callable[[str], object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(str(tmp_path / "model"))
    assert caught.value.what == f"no model folder {tmp_path / 'model'} on {socket.gethostname()}"


def test_a_missing_data_file_and_the_machine_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_table(tmp_path / "train.jsonl", lambda row, where: None)
    assert caught.value.what == f"{tmp_path / 'train.jsonl'} does not exist on {socket.gethostname()}"


def test_an_id_and_a_folder_that_is_there_pass(tmp_path: Path) -> None:
    require_here("owner/name")
    require_here(str(tmp_path))
