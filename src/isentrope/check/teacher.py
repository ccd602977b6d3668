"""The reference policy of a run, where it is another model than the one that is trained: a teacher."""

from isentrope.check.model import Model, read_config, vocabulary
from isentrope.check.source import find
from isentrope.check.weights import check_weights
from isentrope.errors import ConfigError
from isentrope.learner.training.logits import require_plain_logits
from isentrope.rollout.config import ModelConfig
from isentrope.rollout.data.tokenizer import load_tokenizer
from isentrope.runfile import RunFile

KEY = "model.reference"


def open_teacher(config: ModelConfig, file: RunFile, model: Model | None) -> str:
    """Return the folder or id of the reference policy.

    Raises:
        ConfigError: there is no such model, or it reads other tokens than `model`; None: that is still to be made.
    """
    where = file.where(KEY)
    source = find(config.reference, file, KEY)
    facts = read_config(source, where)
    check_weights(source, where)
    require_plain_logits(facts, where)
    if model is not None:
        require_same_tokens(model.path, source.name, where)
        size = vocabulary(facts, source, where)
        if size < model.vocab_size and size < highest(model.path) + 1:
            raise ConfigError(
                f"{source.name} has {size} logits, and tokens of {model.path} are above them",
                where=where,
                fix="name a model of the same tokenizer",
            )
    return source.name


def require_same_tokens(model: str, reference: str, where: str) -> None:
    """Raise ConfigError if two tokenizers give a text other tokens, or a token another text."""
    own, other = (dict(load_tokenizer(path, where).get_vocab()) for path in (model, reference))
    if own == other:
        return
    differing = sorted(token for token in own.keys() | other.keys() if own.get(token) != other.get(token))
    raise ConfigError(
        f"the tokenizer of {reference} is not that of {model}: {len(differing)} tokens have other numbers, the first "
        f"of them {differing[0]!r}",
        where=where,
        fix="name a reference with the tokenizer of model.path: log-probabilities are compared token by token",
    )


def highest(model: str) -> int:
    """Return the largest token id of a model's tokenizer."""
    return max(load_tokenizer(model).get_vocab().values())
