"""A model is found where its name says, and a missing one is told at once, without a network."""

import re
from pathlib import Path

import pytest

from isentrope.check.source import find
from isentrope.errors import ConfigError
from isentrope.runfile import RunFile, from_values


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFile:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return from_values(tmp_path / "run", {"model": {"path": ""}})


def test_a_folder_is_found_relative_to_the_run_file_or_absolute(file: RunFile, model_folder: Path) -> None:
    (file.folder / "models").mkdir()
    (file.folder / "models" / "mine").symlink_to(model_folder)
    for path in ("models/mine", "./models/mine", str(model_folder)):
        source = find(path, file)
        assert source.name == str(model_folder.resolve())
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= source.files


def test_a_home_folder_is_understood(file: RunFile, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(model_folder.parent))
    assert find(f"~/{model_folder.name}", file).folder == model_folder


@pytest.mark.parametrize("path", ["./mine", "/nowhere/mine", "~/mine", "a/b/mine", "models/mine"])
def test_what_has_the_form_of_a_path_never_asks_the_hub(
    file: RunFile, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (file.folder / "models").mkdir()
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *given, **named: pytest.fail("the Hub was asked"))
    with pytest.raises(ConfigError, match="there is no model folder"):
        find(path, file)


def test_a_folder_of_a_similar_name_is_suggested(file: RunFile) -> None:
    (file.folder / "models" / "qwen-small").mkdir(parents=True)
    with pytest.raises(ConfigError, match="did you mean qwen-small"):
        find("models/qwen-smal", file)


def test_a_file_is_not_a_folder(file: RunFile) -> None:
    (file.folder / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="is a file, not a model folder"):
        find("model.safetensors", file)


@pytest.mark.parametrize("name", ["someone/some-model", "gpt2-of-mine"])
def test_without_the_hub_the_message_says_where_was_looked(file: RunFile, name: str) -> None:
    told = re.escape(f"no model {name!r}: not a folder here, not among earlier downloads, and the Hugging Face Hub")
    with pytest.raises(ConfigError, match=told):
        find(name, file)


def test_without_the_hub_an_earlier_download_is_taken(
    file: RunFile, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = str(model_folder / "config.json")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: cached)
    source = find("someone/some-model", file)
    assert (source.name, source.folder) == ("someone/some-model", model_folder)
    assert source.loadable == str(model_folder)
