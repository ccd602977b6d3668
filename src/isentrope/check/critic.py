"""The network of a critic: it must know the tokens of the policy, and takes memory beside it."""

from isentrope.capacity.model_memory import model_facts, training_bytes
from isentrope.check.model import Model, read_config, vocabulary
from isentrope.check.source import KEY, Source, find
from isentrope.check.weights import check_weights
from isentrope.config import Config
from isentrope.errors import ConfigError
from isentrope.runfile import RunFile

PATH = "learner.critic.path"


def examined(config: Config, model: Model, source: Source, file: RunFile) -> str:
    """Return a line on the memory that the critic takes on each rank, beside what the policy takes.

    Raises:
        ConfigError: the model that it begins with is not there, or cannot be read, or has fewer tokens.
    """
    learner, key = config.learner, KEY
    if learner.critic.path is not None:
        key = PATH
        source = find(learner.critic.path, file, key)
        check_weights(source, file.where(key))
    facts = read_config(source, file.where(key))
    known = vocabulary(facts, source, file.where(key))
    if known < model.vocab_size:
        raise ConfigError(
            f"{source.loadable} knows {known} tokens, and the policy {model.vocab_size}",
            where=file.where(key),
            fix="give a model with the policy's tokenizer, or leave it out",
        )
    size = training_bytes(model_facts(facts, config.model.dtype), ranks=learner.ranks, zero_stage=learner.zero_stage)
    return (
        f"the critic is a second network: {size / 1e9:.3g} GB more on each rank for its weights, gradients and "
        "optimizer"
    )
