"""A prompt is a pure function of `seq`, in files and tasks, and becomes tokens as the tokenizer's maker meant it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from isentrope.errors import ConfigError, DataError
from isentrope.rollout.config import DataConfig
from isentrope.rollout.data.prompts import Prompts, PromptTooLongError, open_prompts, tokenize
from isentrope.rollout.data.rows import Row
from isentrope.rollout.data.tasks.digit_walk import VOCABULARY
from isentrope.rollout.data.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ '<bos> ' + m['content'] + ' ' }}{% endfor %}{% if add_generation_prompt %}{{ '=' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    for name, count in (("train", 7), ("aime", 10)):
        lines = [json.dumps({"prompt": f"{name} {i}", "answer": i}) for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def prompts(folder: Path, *, seed: int = 0, **data: Any) -> Prompts:
    return open_prompts(DataConfig(**{"train": "train.jsonl", **data}), run_folder=folder, seed=seed)


@given(seed=st.integers(0, 2**70), data_pass=st.integers(0, 10**6))
def test_every_pass_holds_every_row_once(folder: Path, seed: int, data_pass: int) -> None:
    rows = prompts(folder, seed=seed)
    seen = [rows.train(7 * data_pass + i).columns["answer"] for i in range(7)]
    assert sorted(map(str, seen)) == list("0123456")


@given(seed=st.integers(0, 99), seqs=st.lists(st.integers(0, 10**6), min_size=1))
def test_a_row_depends_on_seed_and_seq_alone(folder: Path, seed: int, seqs: list[int]) -> None:
    used = prompts(folder, seed=seed)
    for seq in seqs:
        assert used.train(seq) == prompts(folder, seed=seed).train(seq)


def test_passes_and_seeds_differ_in_order(folder: Path) -> None:
    def order(seed: int, data_pass: int) -> tuple[str, ...]:
        return tuple(prompts(folder, seed=seed).train(7 * data_pass + i).where for i in range(7))

    assert len({order(seed, data_pass) for seed in (0, 100) for data_pass in range(5)}) == 10
    assert order(3, 4) == order(5, 2), "pass p of seed s is pass 0 of seed s + p"


def test_all_positions_are_equally_likely_for_a_row(folder: Path) -> None:
    rows = prompts(folder)
    places = Counter(i for p in range(700) for i in range(7) if rows.train(7 * p + i).columns["answer"] == 0)
    assert min(places.values()) > 60 and max(places.values()) < 140


def test_training_rows_have_steps_and_held_out_ones_need_none(
    folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    lines = [{"prompt": "1", "steps": [["2", True], ["3", False]]}, {"prompt": "2", "steps": None}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = prompts(tmp_path, steps="steps", eval=str(folder / "aime.jsonl"))
    served = [tokenize(found.train(seq), tokenizer, max_new_tokens=1, max_model_len=9) for seq in range(2)]
    assert sorted(served, key=lambda each: str(each.prompt))[0].steps == {"2": True, "3": False}
    assert {len(each.steps or {}) for each in served} == {0, 2} and found.eval(0).steps is None
    assert tokenize(prompts(tmp_path).train(0), tokenizer, max_new_tokens=1, max_model_len=9).steps is None


def test_the_order_of_rows_is_pinned(folder: Path) -> None:
    """The stream is part of the format: a run resumed by a later version must see the same prompts."""
    rows = prompts(folder, seed=1)
    assert [rows.train(seq).columns["answer"] for seq in range(14)] == [3, 5, 2, 0, 6, 1, 4, 1, 4, 0, 6, 3, 5, 2]


def test_held_out_rows_are_spread_over_the_file(folder: Path) -> None:
    def chosen(count: int) -> list[object]:
        rows = prompts(folder, eval="aime.jsonl", eval_prompts=count)
        return [rows.eval(index).columns["answer"] for index in range(rows.eval_count)]

    assert chosen(5) == [0, 2, 4, 6, 8]
    assert chosen(10) == chosen(99) == list(range(10))


def test_several_held_out_sets_have_names_and_settings_of_their_own(folder: Path) -> None:
    sets: dict[str, Any] = {"long": {"file": "aime.jsonl", "prompts": 3, "samples": 2, "temperature": 0.5}}
    rows = prompts(folder, eval=sets | {"own": "train.jsonl"}, eval_samples=4, eval_top_p=0.9)
    assert rows.eval_counts == {"long": 3, "own": 7} and rows.eval_count == 10
    assert [rows.eval(index, "long").columns["answer"] for index in range(3)] == [0, 3, 6]
    assert (rows.eval(0, "long").source, rows.row(rows.count - 1).prompt) == ("long", "train 6")
    for index, name in ((3, "long"), (0, "heldout"), (-1, "own")):
        with pytest.raises(DataError, match="there is no held-out prompt"):
            rows.eval(index, name)
    found = DataConfig(train="train.jsonl", eval=sets | {"own": "x"}, eval_samples=4, eval_top_p=0.9).eval_sets
    assert [(each.samples, each.temperature, each.top_p) for each in found.values()] == [(2, 0.5, 0.9), (4, None, 0.9)]
    with pytest.raises(DataError) as caught:
        prompts(folder, eval={"gone": "none.jsonl"})
    assert caught.value.where == "data.eval.gone"


def test_a_file_has_no_held_out_rows_of_its_own_and_a_task_has(folder: Path) -> None:
    assert prompts(folder).eval_count == 0
    assert prompts(folder, train="task:digit_walk").eval_count == 200
    mixed = prompts(folder, train="task:digit_walk", eval="aime.jsonl")
    assert (mixed.eval_count, mixed.eval(0).source, mixed.train(0).source) == (10, "aime", "digit_walk")


def test_counts_tell_files_from_generators(folder: Path) -> None:
    assert prompts(folder).train_count == 7
    assert prompts(folder, train="task:digit_walk").train_count is None


def test_rows_are_known_in_the_order_of_the_data_held_out_ones_last(folder: Path) -> None:
    both = prompts(folder, eval="aime.jsonl")
    rows = [both.row(index).prompt for index in range(both.count)]
    assert rows == [f"train {i}" for i in range(7)] + [f"aime {i}" for i in range(10)]
    task = prompts(folder, train="task:digit_walk", eval_prompts=3)
    assert (task.row(0), task.row(task.count - 3)) == (task.train(0), task.eval(0))


def test_the_bound_of_tokens_follows_the_bytes(folder: Path) -> None:
    both = prompts(folder, eval="aime.jsonl")
    most = both.most_tokens()
    assert len(most) == both.count
    assert most[7] - most[0] == len("aime 0") - len("train 0")


def test_what_is_wrong_with_data_names_the_key_and_the_place(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        prompts(folder, eval="none.jsonl")
    assert caught.value.where == "data.eval"
    with pytest.raises(DataError) as caught:
        prompts(folder, prompt="question")
    assert caught.value.where.startswith("data.train (") and "train.jsonl:1 (columns: " in caught.value.where


def test_the_digest_changes_with_either_file(folder: Path) -> None:
    digests = {
        prompts(folder).digest,
        prompts(folder, eval="aime.jsonl").digest,
        prompts(folder, train="aime.jsonl").digest,
        prompts(folder, train="task:digit_walk").digest,
    }
    assert len(digests) == 4
    assert prompts(folder, seed=5).digest in digests


def test_columns_are_renamed_as_configured(folder: Path) -> None:
    row = prompts(folder, prompt="answer_text", columns={"answer": "prompt"}, train=renamed(folder)).train(0)
    assert (row.prompt, dict(row.columns)) == ("nine", {"answer": "3*3", "n": 1})


def renamed(folder: Path) -> str:
    (folder / "renamed.jsonl").write_text('{"prompt": "3*3", "answer_text": "nine", "n": 1}')
    return "renamed.jsonl"


def test_mistakes_in_a_held_out_file_are_found_too(folder: Path) -> None:
    (folder / "bad.jsonl").write_text('{"prompt": "x"}\n{"prompt": ""}\n')
    with pytest.raises(DataError) as caught:
        prompts(folder, eval="bad.jsonl")
    assert caught.value.where.endswith("bad.jsonl:2)")


def test_an_unknown_task_is_a_mistake_of_the_configuration(folder: Path) -> None:
    with pytest.raises(ConfigError, match="task:digit_walk"):
        prompts(folder, train="task:digitwalk")


def row_of(prompt: Any) -> Row:
    return Row(prompt, {"answer": 1}, "train", "f:1")


def test_a_digit_walk_prompt_has_nine_tokens_with_bos(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = prompts(folder, train="task:digit_walk")
    for row in (rows.train(0), rows.train(1), rows.eval(0)):
        prompt = tokenize(row, tokenizer, max_new_tokens=13, max_model_len=22)
        assert prompt.ids.dtype == np.int32
        assert [VOCABULARY[i] for i in prompt.ids] == ["<bos>", *str(row.prompt).split()]
        assert len(prompt.ids) == 9
        assert (prompt.prompt, prompt.columns, prompt.source) == (row.prompt, row.columns, "digit_walk")


def test_messages_go_through_the_template_with_a_generation_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "system", "content": "1"}, {"role": "user", "content": "2 3"}]
    prompt = tokenize(row_of(messages), tokenizer, max_new_tokens=1, max_model_len=99)
    assert [VOCABULARY[i] for i in prompt.ids] == ["<bos>", "1", "<bos>", "2", "3", "="]
    assert prompt.prompt == messages


def test_what_the_template_refuses_is_an_error_of_the_row(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="no tools here") as caught:
        tokenize(row_of([{"role": "tool", "content": "1"}]), tokenizer, max_new_tokens=1, max_model_len=99)
    assert caught.value.where == "f:1"


def test_messages_without_a_template_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(DataError, match="template"):
        tokenize(row_of([{"role": "user", "content": "1"}]), bare, max_new_tokens=1, max_model_len=99)


def test_a_prompt_may_fill_the_room_exactly_and_not_more(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenize(row_of("1 2 3"), tokenizer, max_new_tokens=6, max_model_len=10).ids) == 4
    with pytest.raises(PromptTooLongError, match="4 tokens, and 7 for the response do not fit into 10") as caught:
        tokenize(row_of("1 2 3"), tokenizer, max_new_tokens=7, max_model_len=10)
    assert caught.value.exit_code == 65


class Mute:
    """A tokenizer that makes nothing of any text."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return []

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool, tokenize: bool, return_dict: bool
    ) -> object:
        return []


def test_a_prompt_without_tokens_is_refused() -> None:
    mute: Tokenizer = Mute()
    with pytest.raises(DataError, match="no tokens"):
        tokenize(row_of("1"), mute, max_new_tokens=1, max_model_len=9)
