"""Facts that the engine and the learner will read from a model's configuration: vocabulary, limits, attention heads."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isentrope.check.source import KEY, Source, find
from isentrope.check.weights import check_weights
from isentrope.config import Config
from isentrope.errors import ConfigError, collected
from isentrope.learner.training.logits import require_plain_logits
from isentrope.runfile import RunFile

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

DEFAULT_LENGTH = 2048
"""Limit that vLLM takes for a model whose configuration has none."""

_LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""Names that configurations give their longest sequence; vLLM takes the smallest."""

_WHOLE_ROPE = frozenset({"su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"})
"""Kinds of rotary embeddings whose factor is contained in the longest sequence already."""

UNSERVED: Mapping[str, str] = {
    "deepseek_v3": "its log-probabilities are 0.04 nats away from those that are trained",
    "phi": "it does not take the bias of the output layer",
}
"""Architectures that vLLM does not compute as transformers does, with what was measured on vLLM 0.32."""


@dataclass(frozen=True, slots=True)
class Model:
    """Facts of the model, known before it is loaded."""

    path: str
    """Absolute folder, or Hugging Face id."""
    vocab_size: int
    max_model_len: int
    """Longest prompt plus response in tokens."""


def open_model(config: Config, file: RunFile) -> tuple[Model, Source, list[Exception]]:
    """Return the facts of the model, where it is loaded from, and the mistakes in it and in the keys about it.

    Raises:
        ConfigError: there is no model, or its configuration cannot be read.
    """
    where = file.where(KEY)
    source = find(config.model.path, file)
    facts = read_config(source, where)
    limit, most = longest(facts)
    model = Model(source.name, vocabulary(facts, source, where), config.model.max_model_len or limit)
    errors = collected(
        lambda: check_weights(source, where),
        lambda: require_plain_logits(facts, where),
        lambda: _require_served(facts, where),
        lambda: check_heads(facts, config.actors.tensor_parallel_size, file),
        lambda: _check_lengths(config, model, most, file),
    )
    return model, source, errors


def read_config(source: Source, where: str) -> "PreTrainedConfig":
    """Return the configuration of the model's text part as transformers reads it; ConfigError if it cannot."""
    if "config.json" not in source.files:
        raise ConfigError(
            f"{source.loadable} is not a model: it has no config.json",
            where=where,
            fix="give the folder that save_pretrained wrote",
        )
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source.loadable, trust_remote_code=False)
        text: PreTrainedConfig = config.get_text_config()
    except Exception as error:  # whatever a damaged file leads to in transformers
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ConfigError(
            f"config.json of {source.loadable} is not that of a model: {' '.join(lines[:2])}",
            where=where,
            fix="copy the model's config.json again",
        ) from error
    return text


def _require_served(config: "PreTrainedConfig", where: str) -> None:
    """Raise ConfigError if an engine would sample from another policy than the one that is trained."""
    if reason := UNSERVED.get(config.model_type):
        raise ConfigError(
            f"vLLM does not compute {config.model_type} as transformers does: {reason}",
            where=where,
            fix="use a model of another architecture",
        )


def vocabulary(config: "PreTrainedConfig", source: Source, where: str) -> int:
    """Return the number of tokens that the model knows."""
    size: object = getattr(config, "vocab_size", None)
    if not isinstance(size, int) or size < 1:
        raise ConfigError(f"config.json of {source.loadable} has vocab_size = {size}", where=where, fix="copy it again")
    return size


def longest(config: "PreTrainedConfig") -> tuple[int, int]:
    """Return vLLM's limits of prompt plus response: the one in force if none is set, and the largest that may be set.

    They differ for LongRoPE alone, where vLLM keeps to the length before its extension.
    """
    most = min((length for name in _LENGTHS if (length := getattr(config, name, None)) is not None), default=math.inf)
    if own := getattr(config, "model_max_length", None):
        most = own
    if most == math.inf:
        return DEFAULT_LENGTH, DEFAULT_LENGTH
    ropes = _ropes(config)
    if "gemma3" not in config.model_type:
        factors = [rope["factor"] for rope in ropes if "factor" in rope and rope["rope_type"] not in _WHOLE_ROPE]
        most *= float(str(factors[-1] or 1.0)) if factors else 1.0
    if any(rope["rope_type"] == "longrope" for rope in ropes):
        return int(getattr(config, "original_max_position_embeddings", most)), int(most)
    return int(most), int(most)


def check_heads(config: "PreTrainedConfig", parts: int, file: RunFile) -> None:
    """Raise ConfigError if the model's attention heads cannot be split over `parts` GPUs."""
    heads = getattr(config, "num_attention_heads", None)
    if isinstance(heads, int) and heads % parts:
        raise ConfigError(
            f"{heads} attention heads cannot be split over {parts} GPUs",
            where=file.where("actors.tensor_parallel_size"),
            fix=f"take a divisor of {heads}",
        )


def _check_lengths(config: Config, model: Model, most: int, file: RunFile) -> None:
    given, new = config.model.max_model_len, config.sampling.max_new_tokens
    if given is not None and given > most:
        raise ConfigError(
            f"model.max_model_len = {given} is more than the {most} positions of {config.model.path}",
            where=file.where("model.max_model_len"),
            fix="lower it, or leave it out",
        )
    if new >= model.max_model_len:
        raise ConfigError(
            f"sampling.max_new_tokens = {new} leaves no room for a prompt in the {model.max_model_len} tokens of the "
            "model",
            where=file.where("sampling.max_new_tokens"),
            fix="lower it",
        )


def _ropes(config: "PreTrainedConfig") -> list[dict[str, object]]:
    """Return the parameters of the rotary embeddings; several where they differ by the type of a layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    several = [each for each in parameters.values() if isinstance(each, dict) and "rope_type" in each]
    return several or ([parameters] if "rope_type" in parameters else [])
