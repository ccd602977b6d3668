"""The model's tokenizer: its interface, and the one place that loads it."""

from collections.abc import Sequence
from typing import Protocol, cast

from isentrope.errors import ConfigError


class Tokenizer(Protocol):
    """The used part of a transformers tokenizer."""

    def encode(self, text: str) -> list[int]: ...

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, add_generation_prompt: bool, tokenize: bool, return_dict: bool
    ) -> object: ...


class TextTokenizer(Tokenizer, Protocol):
    """A tokenizer in both directions."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...


def load_tokenizer(model: str, where: str = "model.path") -> TextTokenizer:
    """Load the tokenizer of a model, a folder or a Hugging Face id; takes seconds, because transformers is imported.

    ConfigError names the reason, and `where` the model's name was set.
    """
    from transformers import AutoTokenizer

    try:
        return cast(TextTokenizer, AutoTokenizer.from_pretrained(model))  # its stubs let `decode` return a list
    except Exception as error:  # transformers raises what the file's reader raises, ImportError and bare ones included
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"no tokenizer can be loaded from {model}: {reason}",
            where=where,
            fix="put the files of the model's own tokenizer beside its config.json",
        ) from error
