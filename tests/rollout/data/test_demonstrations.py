"""A demonstration is a pure function of its row: the tokens that the model would have had to sample."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from isentrope.errors import DataError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.demonstrations import demonstration_tokens
from isentrope.rollout.data.prompts import Prompts, open_prompts
from isentrope.rollout.data.tasks.digit_walk import VOCABULARY, verify
from isentrope.rollout.data.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")
    return cast(TextTokenizer, made)


def prompts(folder: Path, *rows: dict[str, object], **data: Any) -> Prompts:
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = DataConfig(**{"train": "train.jsonl", "demonstration": "solution", "order": "file", **data})
    return open_prompts(given, run_folder=folder, seed=0)


def test_the_end_token_follows_and_none_comes_first(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    rows = prompts(tmp_path, {"prompt": "1", "solution": "2 3"}, {"prompt": "2", "solution": None})
    tokens = demonstration_tokens(rows.train(0), tokenizer, 9)
    assert tokens is not None and [VOCABULARY[i] for i in tokens] == ["2", "3", "<eos>"]
    assert demonstration_tokens(rows.train(1), tokenizer, 9) is None
    assert rows.train(0).columns["solution"] == "2 3", "the reward sees the column as any other"


@pytest.mark.parametrize(("longest", "words"), [(4, ["1", "2", "3", "<eos>"]), (3, ["1", "2", "3"]), (2, ["1", "2"])])
def test_one_that_is_too_long_is_cut_off_as_a_response_is(
    tmp_path: Path, tokenizer: TextTokenizer, longest: int, words: list[str]
) -> None:
    tokens = demonstration_tokens(prompts(tmp_path, {"prompt": "1", "solution": "1 2 3"}).train(0), tokenizer, longest)
    assert tokens is not None and [VOCABULARY[i] for i in tokens] == words


def test_messages_end_with_the_assistants(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    assert prompts(tmp_path, {"prompt": "1", "solution": chat}).train(0).demonstration == "2"
    with pytest.raises(DataError, match="the demonstration is list"):
        prompts(tmp_path, {"prompt": "1", "solution": chat[:1]})


def test_a_column_that_is_missing_or_empty_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'solution' is missing") as caught:
        prompts(tmp_path, {"prompt": "1", "solutions": "2"})
    assert caught.value.fix == 'set data.demonstration = "solutions"'
    with pytest.raises(DataError, match="empty in all rows") as caught:
        prompts(tmp_path, {"prompt": "1", "solution": None}, {"prompt": "2", "solution": " "})
    assert caught.value.where == "data.demonstration"
    with pytest.raises(DataError, match="the demonstration is int 3"):
        prompts(tmp_path, {"prompt": "1", "solution": 3})


def test_held_out_prompts_need_none(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": "9"}))
    assert prompts(tmp_path, {"prompt": "1", "solution": "2"}, eval="eval.jsonl").eval(0).demonstration == ""


def test_a_task_has_right_ones_by_its_own_name(tmp_path: Path) -> None:
    rows = prompts(tmp_path, train="task:digit_walk", demonstration="demonstration", order="shuffled")
    for seq in range(20):
        row = rows.train(seq)
        start, target, operations = (row.columns[name] for name in ("start", "target", "operations"))
        assert isinstance(start, int) and isinstance(target, int) and isinstance(operations, list)
        assert verify(row.demonstration, start, target, operations) and row == rows.train(seq)
    with pytest.raises(DataError, match="has no column 'walk'") as caught:
        prompts(tmp_path, train="task:digit_walk", demonstration="walk", order="shuffled")
    assert caught.value.where == "data.demonstration"
