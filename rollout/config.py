"""Configuration of what both sides share: the run, the model, the data, sampling, the broker, weight transport."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt


class Section(BaseModel):
    """Base of every configuration table: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunConfig(Section):
    """`[run]`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """Name in the broker; part of an access rule, hence the narrow alphabet."""
    seed: Annotated[int, Field(ge=0)] = 0
    output_dir: str = ""
    """Where checkpoints, metrics and reports go; empty: `runs/<name>`."""


class ModelConfig(Section):
    """`[model]`."""

    path: str
    """Hugging Face id or folder."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    max_model_len: PositiveInt | None = None
    """Longest prompt plus response in tokens; None: the model's own limit."""


class DataConfig(Section):
    """`[data]`."""

    train: str
    """jsonl or parquet file, or `task:<name>` for a built-in generator."""
    eval: str = ""
    """Held-out data in the same forms; empty: none. A task has its own held-out part."""
    reward: str | list[str] = ""
    """Built-in name or `module:function` with TRL's signature; empty: the task's own verifier."""
    reward_weights: list[float] = []
    """One factor per reward function; empty: all 1."""
    reward_timeout_s: PositiveFloat = 60.0
    prompt: str = "prompt"
    """Column that holds the prompt: text, or chat messages (`[{role, content}, ...]`) for the tokenizer's template."""
    columns: dict[str, str] = {}
    """Further renaming of columns: name the reward expects = name in the file."""
    too_long: Literal["error", "skip"] = "error"
    """What to do with a prompt that leaves no room for `max_new_tokens`."""
    correct_above: float = 0.5
    """A response counts as correct when its unshaped reward is above this."""
    eval_prompts: PositiveInt = 200
    """How many held-out prompts an evaluation uses, at most."""
    eval_samples: PositiveInt = 8
    """Responses per held-out prompt."""


class SamplingConfig(Section):
    """`[sampling]`."""

    group_size: PositiveInt = 8
    temperature: PositiveFloat = 1.0
    max_new_tokens: PositiveInt = 1024
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: int = -1


class RedisConfig(Section):
    """`[redis]`."""

    url_env: str = "ISENTROPE_REDIS_URL"
    """Environment variable that holds the broker's URL; unset: a private bundled server."""
    max_bytes: PositiveInt = 1 << 30
    """Budget of un-committed payload; nothing more is issued above it."""
    max_record_bytes: PositiveInt = 64 << 20
    """A larger record is refused before it is decoded."""
    insecure: bool = False
    """Allow a server on another host without password."""


class WeightsConfig(Section):
    """`[weights]`."""

    transport: Literal["file"] = "file"
    publish_every: PositiveInt = 1
    """Batches between two published versions; needs `staleness.max_lag >= publish_every - 1`."""
    keep: Annotated[int, Field(ge=2)] = 3
    """Published versions kept on disk."""
