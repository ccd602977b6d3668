"""The facts an actor needs to join a run: one record in the broker, without secrets. Does not import redis."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, PositiveInt

from isentrope.rollout.config import DataConfig, LeaseConfig, ModelConfig, SamplingConfig


class RunSpec(LeaseConfig):
    """Facts that stay the same for the whole run; the learner writes them when it fences.

    `config_digest` binds the run's name: another digest under the same name is refused. The keys of `LeaseConfig`
    stand here for both sides.
    """

    schema_version: Literal[1] = 1
    run: str
    config_digest: str
    seed: Annotated[int, Field(ge=0)]
    model: ModelConfig
    model_dir: str
    """Folder or id of the model's configuration and tokenizer (weights arrive by manifest)."""
    vocab_size: PositiveInt
    """Token ids on the wire are below this."""
    data: DataConfig
    data_digest: str
    """Digest of all prompts; an actor whose files have another digest would answer other prompts than the run's."""
    sampling: SamplingConfig
    actors: dict[str, JsonValue]
    """The other keys of `[actors]`, as plain JSON because their model belongs to `actors/`, unknown here."""
    prompts_per_batch: PositiveInt
    run_folder: str
    """Folder of the run file: relative paths and `module:function` resolve from it."""
    output_dir: str
    """Absolute folder of checkpoints, weights and reports."""
    max_bytes: PositiveInt = 1 << 30
    """Budget of un-committed payload in bytes; nothing is issued above it."""
    max_record_bytes: PositiveInt = 64 << 20
    """A larger payload is refused before it is decoded, in bytes."""
