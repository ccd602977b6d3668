"""The first prompt as the model will be given it: its tokens, special ones marked, and what is unusual about them."""

from collections.abc import Iterator, Sequence

from isentrope.errors import ConfigError
from isentrope.rollout.data.rows import Row
from isentrope.rollout.data.tokenizer import ModelTokenizer

HEAD, TAIL = 48, 24
"""Tokens that are shown of the beginning and of the end of a longer prompt."""


def shown(row: Row, ids: Sequence[int], tokenizer: ModelTokenizer) -> list[str]:
    """Return the prompt as lines: where it is from, and its tokens between bars, special ones in brackets."""
    pieces = [_piece(token, tokenizer) for token in ids]
    if len(pieces) > HEAD + TAIL:
        pieces = [*pieces[:HEAD], f" ... {len(pieces) - HEAD - TAIL} more ... ", *pieces[-TAIL:]]
    return [f"first prompt ({row.where}), {len(ids)} tokens, special ones in [ ]:", f"  {'|'.join(pieces)}"]


def doubts(row: Row, ids: Sequence[int], tokenizer: ModelTokenizer) -> Iterator[str]:
    """Yield a note for everything unusual about the tokens of the first prompt."""
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        yield (
            f"prompts begin twice: {_piece(ids[0], tokenizer)} comes from the data or the template, and again from the "
            "tokenizer"
        )
    if ids[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id != tokenizer.bos_token_id:
        yield f"prompts end with {_piece(ids[-1], tokenizer)}, the end of a text: the model may have nothing to add"
    if isinstance(row.prompt, str):
        if tokenizer.chat_template:
            yield "prompts are text, so the model's chat template is not used; give messages if the model is for chats"
    elif _renders_no_turn(row, ids, tokenizer):
        yield "the chat template does not begin the assistant's turn, so the model may go on with the user's"


def require_template(row: Row, tokenizer: ModelTokenizer, where: str) -> None:
    """Raise ConfigError if the prompt is a chat, and there is no template for it."""
    if not isinstance(row.prompt, str) and not tokenizer.chat_template:
        raise ConfigError(
            f"the prompts are chats ({row.where}), and the model's tokenizer has no chat template",
            where=where,
            fix="take a model for chats, set model.chat_template, or give the prompts as text",
        )


def check_vocabulary(row: Row, ids: Sequence[int], vocab_size: int, where: str) -> None:
    """Raise ConfigError if the prompt has tokens that the model does not know."""
    if max(ids) >= vocab_size:
        raise ConfigError(
            f"the tokenizer gives token {max(ids)} for {row.where}, and the model knows {vocab_size} tokens",
            where=where,
            fix="take the model's own tokenizer",
        )


def _piece(token: int, tokenizer: ModelTokenizer) -> str:
    text = repr(tokenizer.decode([token]))[1:-1]
    added = tokenizer.added_tokens_decoder.get(token)
    return f"[{text}]" if token in tokenizer.all_special_ids or getattr(added, "special", False) else text


def _renders_no_turn(row: Row, ids: Sequence[int], tokenizer: ModelTokenizer) -> bool:
    assert not isinstance(row.prompt, str)
    without: object = tokenizer.apply_chat_template(
        row.prompt, add_generation_prompt=False, tokenize=True, return_dict=False
    )
    return without == list(ids)
