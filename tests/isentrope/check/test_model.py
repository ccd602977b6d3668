"""What the check knows of a model's configuration is what transformers and vLLM make of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from isentrope.check.model import UNSERVED, check_heads, longest, open_model, read_config
from isentrope.check.source import Source
from isentrope.config import accept
from isentrope.errors import ConfigError
from isentrope.runfile import from_values

LLAMA = {"model_type": "llama", "vocab_size": 64, "num_attention_heads": 4, "max_position_embeddings": 512}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0], "rope_theta": 10000.0}

CONFIGS: dict[str, tuple[dict[str, Any], int, int]] = {
    "llama": (LLAMA, 512, 512),
    "positions": ({"model_type": "gpt2", "vocab_size": 64, "n_positions": 128}, 128, 128),
    "linear": (LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, 2048, 2048),
    "yarn": (
        LLAMA
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e4,
                "original_max_position_embeddings": 128,
            }
        },
        512,
        512,
    ),
    "longrope": (LLAMA | {"rope_parameters": LONGROPE, "original_max_position_embeddings": 128}, 128, 512),
    "text part": (
        {"model_type": "gemma3", "text_config": {"vocab_size": 64, "max_position_embeddings": 256}},
        256,
        256,
    ),
    "none": ({"model_type": "bloom", "vocab_size": 64}, 2048, 2048),
}
"""Contents of config.json, the limit in force if none is set, the largest that may be set."""


def _source(folder: Path, text: str) -> Source:
    (folder / "config.json").write_text(text)
    return Source(str(folder), folder, frozenset({"config.json"}))


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_limits(tmp_path: Path, name: str) -> None:
    contents, limit, most = CONFIGS[name]
    assert longest(read_config(_source(tmp_path, json.dumps(contents)), "")) == (limit, most)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_limits_are_those_of_the_engine(tmp_path: Path, name: str) -> None:
    """By vLLM's own function, with and without the largest limit that may be set."""
    from vllm.config import model as engine
    from vllm.transformers_utils.config import get_config, get_hf_text_config
    from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase

    config = read_config(_source(tmp_path, json.dumps(CONFIGS[name][0])), "")
    whole = get_config(tmp_path, trust_remote_code=False)
    text = get_hf_text_config(whole)
    arch = ModelArchConfigConvertorBase(whole, text).convert()

    def limit(given: int | None) -> int:
        return engine._get_and_verify_max_len(text, arch, None, given, False, None)

    here, most = longest(config)
    assert limit(None) == here
    assert limit(most) == most
    if name != "none":
        with pytest.raises(ValueError, match="greater than"):
            limit(most + 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"model_type": "llama", "voc', "is not a valid JSON file"),
        ("[]", "model_type"),
        ("{}", "model_type"),
        ('{"model_type": "nollama"}', "`nollama`"),
        (json.dumps(LLAMA | {"vocab_size": None}), "vocab_size"),
        (json.dumps(LLAMA | {"vocab_size": "many"}), "vocab_size"),
    ],
)
def test_a_damaged_configuration_is_an_error_with_its_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(_source(tmp_path, text), "run.toml:6: model.path")
    assert f"config.json of {tmp_path}" in caught.value.what and says in caught.value.what
    assert caught.value.where == "run.toml:6: model.path" and "\n" not in caught.value.what


def test_heads_are_split_evenly_over_the_gpus(tmp_path: Path) -> None:
    config = read_config(_source(tmp_path, json.dumps(LLAMA)), "")
    file = from_values(tmp_path / "run", {})
    check_heads(config, 2, file)
    with pytest.raises(ConfigError, match="4 attention heads cannot be split over 3 GPUs"):
        check_heads(config, 3, file)


def test_all_mistakes_of_a_model_are_found_together(tmp_path: Path, model_folder: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    values = {
        "run": {"name": "a"},
        "model": {"path": "model", "max_model_len": 8192},
        "data": {"train": "task:digit_walk"},
        "actors": {"tensor_parallel_size": 2},
    }
    config, file = accept(from_values(tmp_path / "run", values))
    model, _, errors = open_model(config, file)
    assert (model.vocab_size, model.path) == (46, str((tmp_path / "model").resolve()))
    told = "\n".join(str(error) for error in errors)
    for part in ("has no weights", "3 attention heads", "more than the 4096 positions"):
        assert part in told


@pytest.mark.parametrize("architecture", sorted(UNSERVED))
def test_an_architecture_that_an_engine_computes_otherwise_is_refused(
    tmp_path: Path, model_folder: Path, architecture: str
) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": architecture}))
    values = {"run": {"name": "a"}, "model": {"path": "model"}, "data": {"train": "task:digit_walk"}}
    _, _, errors = open_model(*accept(from_values(tmp_path / "run", values)))
    assert any(f"vLLM does not compute {architecture}" in str(error) for error in errors)
