"""A tokenizer is loaded, or the error says from where it was not and why."""

from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from isentrope.errors import ConfigError
from isentrope.rollout.config import ModelConfig
from isentrope.rollout.data.prompts import tokenize
from isentrope.rollout.data.rows import Row
from isentrope.rollout.data.tokenizer import load_tokenizer, with_arguments


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


TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if think %}one{% else %}two{% endif %}"


def test_template_and_its_arguments_decide_what_a_chat_becomes(model: Path) -> None:
    row = Row([{"role": "user", "content": "one"}], {}, "train", "f:1")
    for arguments, expected in ({}, "one two"), ({"think": True}, "one one"), ({"think": False}, "one two"):
        config = ModelConfig(path="m", chat_template=TEMPLATE, chat_template_args={**arguments})
        tokenizer = load_tokenizer(str(model), chat=config)
        prompt = tokenize(row, tokenizer, max_new_tokens=1, max_model_len=9)
        assert tokenizer.decode(prompt.ids.tolist()) == expected


@pytest.mark.parametrize(
    ("template", "says", "fix"),
    [(TEMPLATE, "does not use 'thinks'", "think"), ("", "has no chat template", "set model")],
)
def test_an_argument_without_a_use_is_refused(model: Path, template: str, says: str, fix: str) -> None:
    config = ModelConfig(path="m", chat_template=template, chat_template_args={"thinks": True})
    with pytest.raises(ConfigError, match=says) as caught:
        load_tokenizer(str(model), chat=config)
    assert fix in caught.value.fix and caught.value.where.startswith("model.chat_template_args")


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_a_template_sees_the_value_that_was_given(value: object) -> None:
    seen: list[object] = []
    template = with_arguments("{{ note(x) }}", {"x": value})  # type: ignore[dict-item]
    jinja2.Template(template).render(note=seen.append)
    assert seen == [value]
