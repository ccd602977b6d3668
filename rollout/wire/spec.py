"""What an actor must know about a run to join it: one record in the broker, no secrets. Knows nothing of Redis."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveFloat, PositiveInt

from isentrope.rollout.config import DataConfig, ModelConfig, SamplingConfig


class RunSpec(BaseModel):
    """Facts of a run that stay the same while it lives; the learner writes them when it fences.

    `config_digest` binds the run's name: another digest under the same name is refused. `actors` is the run file's
    `[actors]` table; it is kept as plain JSON because its model belongs to the actors' folder, unknown here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    run: str
    config_digest: str
    seed: Annotated[int, Field(ge=0)]
    model: ModelConfig
    model_dir: str
    """Folder or id that holds configuration and tokenizer of the model (weights arrive by manifest)."""
    vocab_size: PositiveInt
    """Token ids on the wire are below this."""
    data: DataConfig
    data_digest: str
    """Of all prompts; an actor whose files say otherwise would answer other questions than the run asks."""
    sampling: SamplingConfig
    actors: dict[str, JsonValue]
    prompts_per_batch: PositiveInt
    run_folder: str
    """Folder of the run file: relative paths and `module:function` resolve from it."""
    output_dir: str
    """Absolute folder of checkpoints, weights and reports."""
    heartbeat_s: PositiveFloat = 5.0
    """Interval of heartbeats; leases of an actor silent for three of them are taken away."""
    max_tries: PositiveInt = 5
    """Leases of one order that may die before it is retired."""
    max_bytes: PositiveInt = 1 << 30
    """Budget of un-committed payload in bytes; nothing is issued above it."""
    max_record_bytes: PositiveInt = 64 << 20
    """A larger payload is refused before it is decoded, in bytes."""
