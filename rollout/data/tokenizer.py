"""The model's tokenizer: its interface, and the one place that loads it and sets its chat template."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from pydantic import JsonValue

from isentrope.errors import ConfigError, nearest
from isentrope.rollout.config import ModelConfig
from isentrope.rollout.data.model_place import require_here


class Tokenizer(Protocol):
    """The used part of a transformers tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool, tokenize: bool, return_dict: bool
    ) -> object: ...


class TextTokenizer(Tokenizer, Protocol):
    """A tokenizer in both directions."""

    chat_template: Any
    """Text of the chat template; a table of texts by name in some models; None: there is none."""
    eos_token_id: int | None

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...


class ModelTokenizer(TextTokenizer, Protocol):
    """A tokenizer of a model, with its special tokens."""

    chat_template: str | dict[str, str] | None
    bos_token_id: int | None
    all_special_ids: Sequence[int]
    added_tokens_decoder: Mapping[int, object]

    def get_vocab(self) -> Mapping[str, int]: ...


def load_tokenizer(model: str, where: str = "model.path", chat: ModelConfig | None = None) -> ModelTokenizer:
    """Load the tokenizer of a model, a folder or a Hugging Face id; takes seconds, because transformers is imported.

    Args:
        model: the folder or id.
        where: place of the model's name, for messages.
        chat: its template and the template's arguments take the place of the tokenizer's own.

    Raises:
        ConfigError: the tokenizer cannot be loaded, or has no use for the arguments.
    """
    require_here(model, where)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except Exception as error:  # transformers raises what the file's reader raises, ImportError and bare ones included
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"no tokenizer can be loaded from {model}: {reason}",
            where=where,
            fix="put the files of the model's own tokenizer beside its config.json",
        ) from error
    if chat is not None and chat.chat_template:
        tokenizer.chat_template = chat.chat_template
    if chat is not None and chat.chat_template_args:
        tokenizer.chat_template = with_arguments(_template(tokenizer, model), chat.chat_template_args)
    return cast(ModelTokenizer, tokenizer)  # its stubs let `decode` return a list


def with_arguments(template: str, arguments: Mapping[str, JsonValue]) -> str:
    """Return the template with these values for variables that its caller does not set.

    They are part of the template's text, so that a model saved with it renders prompts as they were in training.

    Raises:
        ConfigError: the template does not use a name.
    """
    used = set(re.findall(r"[A-Za-z_]\w*", template))
    for name in arguments:
        if name not in used:
            near = nearest(name, used)
            raise ConfigError(
                f"the chat template does not use {name!r}",
                where=f"model.chat_template_args.{name}",
                fix=f"did you mean {near}?" if near else "leave it out",
            )
    defaults = [
        f"{{%- set {name} = {name} if {name} is defined else {_literal(value)} -%}}\n"
        for name, value in arguments.items()
    ]
    return "".join(defaults) + template


def _template(tokenizer: Any, model: str) -> str:
    """Return the template in force."""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        raise ConfigError(
            f"the tokenizer of {model} has no chat template for the arguments",
            where="model.chat_template_args",
            fix="set model.chat_template, or leave them out",
        ) from None


def _literal(value: JsonValue) -> str:
    """Return a value as Jinja writes it."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_literal, value))}]"
        case dict():
            return f"{{{', '.join(f'{_literal(key)}: {_literal(inner)}' for key, inner in value.items())}}}"
        case _:
            return json.dumps(value, ensure_ascii=False)  # else Jinja reads a surrogate pair as two characters
