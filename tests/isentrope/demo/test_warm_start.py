"""A tiny model made from demonstrations: it loads as any other, knows their words, and learns what they show."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from isentrope.demo.warm_start import Messages, make_tiny_model

SHOWN: list[tuple[str | Messages, str]] = [(f"what is {word} ?", f"it is {word}") for word in "abcdefgh"]


@pytest.mark.slow
def test_it_learns_what_it_is_shown(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, SHOWN, steps=80)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), LlamaForCausalLM.from_pretrained(tmp_path)
    for prompt, answer in SHOWN:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        written = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]  # pyright: ignore[reportAttributeAccessIssue]
        assert tokenizer.decode(written, skip_special_tokens=True) == answer


def test_a_word_that_was_not_shown_is_unknown(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, SHOWN, steps=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    words = tokenizer.convert_ids_to_tokens(tokenizer("what is z ?")["input_ids"])
    assert words == ["<bos>", "what", "is", "<unk>", "?"]


def test_messages_are_shown_as_the_chat_template_renders_them(tmp_path: Path) -> None:
    """Every word of a rendered chat is known, and none of a text without one."""
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is a ?"}]
    make_tiny_model(tmp_path / "chat", [(messages, "it is a")], steps=1)
    make_tiny_model(tmp_path / "text", SHOWN, steps=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "chat")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words == ["<bos>", "<system>", "be", "brief", "<user>", "what", "is", "a", "?", "<assistant>"]
    assert AutoTokenizer.from_pretrained(tmp_path / "text").chat_template is None
