"""The facts an actor needs to join a run: one record in the broker, without secrets. Does not import redis."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveInt

from isentrope.rollout.config import DataConfig, LeaseConfig, ModelConfig, SamplingConfig, Seconds
from isentrope.rollout.wire.validation import Limits


class Bundle(BaseModel):
    """Files that an actor needs of the machine on which the run was started, packed into one file of the depot.

    Paths are relative to the folder that it is unpacked into; an empty one stays as the spec states it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    size_bytes: Annotated[int, Field(ge=0)]
    run_folder: str = "run"
    model_dir: str = ""
    train: str = ""
    """Name of the training data, if it lies outside the run file's folder."""
    eval: str = ""


class RunSpec(LeaseConfig):
    """Facts that stay the same for the whole run; the learner writes them when it fences.

    `config_digest` binds the run's name: another digest under the same name is refused. The keys of `LeaseConfig`
    stand here for both sides.
    """

    schema_version: Literal[2] = 2
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
    depots: tuple[str, ...] = ()
    """URLs of the depots that hold the bundle and the published weights, the preferred one first."""
    relay_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port at which actors offer fetched versions to each other; 0: any free one. None: they do not."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of isentrope, Python and the libraries that all processes of the run must have alike."""
    bundle: Bundle | None = None
    """The files an actor needs; None: it is on a machine that has them at the paths above."""
    max_bytes: PositiveInt = 1 << 30
    """Budget of un-committed payload in bytes; nothing is issued above it."""
    max_record_bytes: PositiveInt = 64 << 20
    """A larger payload is refused before it is decoded, in bytes."""

    broker_timeout_s: Seconds = 300.0
    """Seconds after which a learner or an actor gives up a broker that does not serve."""

    def limits(self, *, group_size: int | None = None, newest_version: int | None = None) -> Limits:
        """Return what every record of the run must fit, with the number of responses that were asked for."""
        return Limits(
            vocab_size=self.vocab_size,
            group_size=group_size,
            newest_version=newest_version,
            max_new_tokens=self.sampling.max_new_tokens,
            max_model_len=self.model.max_model_len,
            temperature=self.sampling.temperature,
        )

    def unpacked(self, folder: Path) -> Self:
        """Return the spec for a machine on which the bundle lies unpacked in `folder`."""
        bundle = self.bundle
        if bundle is None:
            return self
        data = {key: str(folder / name) for key, name in (("train", bundle.train), ("eval", bundle.eval)) if name}
        return self.model_copy(
            update={
                "run_folder": str(folder / bundle.run_folder),
                "model_dir": str(folder / bundle.model_dir) if bundle.model_dir else self.model_dir,
                "data": self.data.model_copy(update=data),
            }
        )
