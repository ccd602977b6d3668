"""Files of weights that are missing, cut off or only named are told before a run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from isentrope.check.source import Source
from isentrope.check.weights import check_weights
from isentrope.errors import ConfigError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path, model_folder: Path) -> Path:
    shutil.copytree(model_folder, tmp_path / "model")
    return tmp_path / "model"


def _check(folder: Path) -> None:
    check_weights(Source(str(folder), folder, frozenset(path.name for path in folder.iterdir())), "run.toml:3")


def _refusal(folder: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        _check(folder)
    assert caught.value.where == "run.toml:3"
    return caught.value


def _split(folder: Path, *names: str) -> None:
    """Write an index that lists `names`, and no single file."""
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {f"w{i}": name for i, name in enumerate(names)}}))


def test_a_whole_file_passes(folder: Path) -> None:
    _check(folder)


def test_weights_in_several_files_pass(folder: Path) -> None:
    _split(folder, "a.safetensors", "b.safetensors")
    for name in ("a", "b"):
        save_file({name: np.zeros(2, np.float32)}, folder / f"{name}.safetensors")
    _check(folder)


def test_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert "has no weights: neither model.safetensors nor model.safetensors.index.json" in _refusal(folder).what


@pytest.mark.parametrize("kept", [0, 4, 60, -4])
def test_a_file_that_is_cut_off(folder: Path, kept: int) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:kept])
    assert f"{folder / WEIGHTS} is damaged" in _refusal(folder).what


def test_a_pointer_in_place_of_the_file(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refusal = _refusal(folder)
    assert "pointer of Git LFS" in refusal.what and "git lfs pull" in refusal.fix


def test_an_index_that_lists_what_is_not_there(folder: Path) -> None:
    _split(folder, "a.safetensors", "b.safetensors")
    assert "lists a.safetensors and 1 more, which is not there" in _refusal(folder).what


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index(folder: Path, text: str) -> None:
    _split(folder)
    (folder / INDEX).write_text(text)
    assert "is not an index of weights" in _refusal(folder).what


def test_of_a_model_on_the_hub_the_names_are_enough() -> None:
    check_weights(Source("a/b", None, frozenset({"config.json", WEIGHTS})), "")
    with pytest.raises(ConfigError, match="has no weights"):
        check_weights(Source("a/b", None, frozenset({"config.json"})), "")
