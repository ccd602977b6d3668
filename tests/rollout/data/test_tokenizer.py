"""A tokenizer is loaded, or the error says from where it was not and why."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from isentrope.errors import ConfigError
from isentrope.rollout.data.tokenizer import load_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path)
    return tmp_path


def test_text_survives_the_way_there_and_back(model: Path) -> None:
    tokenizer = load_tokenizer(str(model))
    assert tokenizer.decode(tokenizer.encode("two one two")) == "two one two"


@pytest.mark.parametrize("damage", ["missing", "not JSON", "not a tokenizer"])
def test_whatever_is_wrong_with_the_files_is_one_error(model: Path, damage: str) -> None:
    """tokenizers raises a bare Exception for the last of them."""
    file = model / "tokenizer.json"
    if damage == "missing":
        for each in model.iterdir():
            each.unlink()
    else:
        file.write_text("{" if damage == "not JSON" else '{"model": {"type": "none"}}')
    with pytest.raises(ConfigError, match="no tokenizer can be loaded from") as caught:
        load_tokenizer(str(model), "run.toml:3: model.path")
    assert str(model) in caught.value.what
    assert caught.value.where == "run.toml:3: model.path" and caught.value.fix
    assert "\n" not in caught.value.what
