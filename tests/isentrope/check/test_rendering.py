"""The first prompt is shown as the model gets it, and what is unusual about it is said."""

from collections.abc import Sequence
from typing import cast

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from isentrope.check.rendering import HEAD, TAIL, check_vocabulary, doubts, require_template, shown
from isentrope.errors import ConfigError
from isentrope.rollout.data.prompts import encode
from isentrope.rollout.data.rows import Messages, Row
from isentrope.rollout.data.tokenizer import ModelTokenizer

WORDS = ("<bos>", "<eos>", "<turn>", "one", "two", "user", "assistant")
TURN = "{% for m in messages %}<turn> {{ m['role'] }} {{ m['content'] }} {% endfor %}"
BEGIN = "{% if add_generation_prompt %}<turn> assistant{% endif %}"
CHAT = [{"role": "user", "content": "one two"}]


def _tokenizer(form: str = "<bos> $A", template: str | None = None) -> ModelTokenizer:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(form, special_tokens=[("<bos>", 0), ("<eos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", extra_special_tokens=["<turn>"]
    )
    tokenizer.chat_template = template
    return cast(ModelTokenizer, tokenizer)


def _row(prompt: str | Messages) -> Row:
    return Row(prompt, {}, "train", "train.jsonl:1")


def _notes(prompt: str | Messages, tokenizer: ModelTokenizer) -> Sequence[str]:
    row = _row(prompt)
    return list(doubts(row, encode(row, tokenizer).tolist(), tokenizer))


def test_tokens_are_between_bars_and_special_ones_in_brackets() -> None:
    tokenizer = _tokenizer(template=TURN + BEGIN)
    row = _row(CHAT)
    place, tokens = shown(row, encode(row, tokenizer).tolist(), tokenizer)
    assert "train.jsonl:1" in place and "6 tokens" in place
    assert tokens.strip() == "[<turn>]|user|one|two|[<turn>]|assistant"
    assert _notes(CHAT, tokenizer) == []


def test_of_a_long_prompt_both_ends_are_shown() -> None:
    row = _row("one " * 500)
    tokenizer = _tokenizer()
    tokens = shown(row, encode(row, tokenizer).tolist(), tokenizer)[1]
    assert f"... {501 - HEAD - TAIL} more ..." in tokens and tokens.count("|") == HEAD + TAIL


@pytest.mark.parametrize(
    ("prompt", "form", "template", "told"),
    [
        ("<bos> one", "<bos> $A", None, "prompts begin twice: [<bos>]"),
        ("one", "<bos> $A <eos>", None, "prompts end with [<eos>]"),
        ("one", "$A", TURN + BEGIN, "prompts are text, so the model's chat template is not used"),
        (CHAT, "$A", TURN, "does not begin the assistant's turn"),
    ],
)
def test_what_is_unusual_is_said(prompt: str | Messages, form: str, template: str | None, told: str) -> None:
    (note,) = _notes(prompt, _tokenizer(form, template))
    assert told in note


def test_a_usual_text_has_no_note() -> None:
    assert _notes("one two", _tokenizer()) == []


def test_a_chat_needs_a_template() -> None:
    require_template(_row("one"), _tokenizer(), "run.toml:3")
    require_template(_row(CHAT), _tokenizer(template=TURN), "run.toml:3")
    with pytest.raises(ConfigError, match="has no chat template"):
        require_template(_row(CHAT), _tokenizer(), "run.toml:3")


def test_a_token_that_the_model_does_not_know_is_an_error() -> None:
    row = _row("two")
    check_vocabulary(row, [0, 4], 5, "run.toml:3")
    with pytest.raises(ConfigError, match=r"token 4 for train.jsonl:1, and the model knows 4 tokens"):
        check_vocabulary(row, [0, 4], 4, "run.toml:3")
