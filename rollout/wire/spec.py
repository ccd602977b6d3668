"""The facts an actor needs to join a run: one record in the broker, without secrets. Does not import redis."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveInt

from isentrope.rollout.config import DataConfig, EvalSet, LeaseConfig, ModelConfig, SamplingConfig
from isentrope.rollout.units import MAX_SECONDS, Bytes, Port, Prompts, Seconds
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
    data: dict[str, str] = Field(default_factory=dict)
    """Names of the data files that lie outside the run file's folder, by their keys in `[data]`: `train`, `eval`, or
    `train.<name>` of several."""


class RunSpec(LeaseConfig):
    """Facts that stay the same for the whole run; the learner writes them when it fences.

    `config_digest` binds the run's name: another digest under the same name is refused. The keys of `LeaseConfig`
    stand here for both sides.
    """

    schema_version: Literal[2] = 2
    heartbeat_s: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = 5.0
    """As in the run file, but for its least value: the protocol holds for any."""
    run: str
    config_digest: str
    seed: Annotated[int, Field(ge=0)]
    model: ModelConfig
    model_dir: str
    """Folder or id of the model's configuration and tokenizer (weights arrive by manifest)."""
    reference_dir: str = ""
    """Folder or id of the reference policy; empty: `model_dir`. Only the learner's ranks read it."""
    vocab_size: PositiveInt
    """Token ids on the wire are below this."""
    data: DataConfig
    data_digest: str
    """Digest of all prompts; an actor whose files have another digest would answer other prompts than the run's."""
    sampling: SamplingConfig
    actors: dict[str, JsonValue]
    """The other keys of `[actors]`, as plain JSON because their model belongs to `actors/`, unknown here."""
    prompts_per_batch: Prompts
    greedy: bool = False
    """True: every group has the reward of a greedy response, which is not trained."""
    demonstrations: bool = False
    """True: a group has the demonstration of its prompt, if the data have one."""
    run_folder: str
    """Folder of the run file: relative paths and `module:function` resolve from it."""
    output_dir: str
    """Absolute folder of checkpoints, weights and reports."""
    depots: tuple[str, ...] = ()
    """URLs of the depots that hold the bundle and the published weights, the preferred one first."""
    relay_port: Port | None = None
    """Port at which actors offer fetched versions to each other; 0: any free one. None: they do not."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of isentrope, Python and the libraries that all processes of the run must have alike."""
    bundle: Bundle | None = None
    """The files an actor needs; None: it is on a machine that has them at the paths above."""
    max_bytes: Bytes = 1 << 30
    """Budget of un-committed payload in bytes; nothing is issued above it."""
    max_record_bytes: Bytes = 64 << 20
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
            top_k=self.sampling.top_k if self.sampling.truncates else None,
        )

    def eval_temperature(self, name: str) -> float:
        """Return the temperature of the evaluation of one set of held-out prompts."""
        found = self.data.eval_sets.get(name)
        return self.sampling.temperature if found is None else found.temperature or self.sampling.temperature

    def unpacked(self, folder: Path) -> Self:
        """Return the spec for a machine on which the bundle lies unpacked in `folder`."""
        bundle = self.bundle
        if bundle is None:
            return self
        places = {key: str(folder / name) for key, name in bundle.data.items()}
        data = {key: _placed(getattr(self.data, key), key, places) for key in ("train", "eval")}
        return self.model_copy(
            update={
                "run_folder": str(folder / bundle.run_folder),
                "model_dir": str(folder / bundle.model_dir) if bundle.model_dir else self.model_dir,
                "data": self.data.model_copy(update=data),
            }
        )


def _placed(named: str | Mapping[str, str | EvalSet], key: str, places: Mapping[str, str]) -> object:
    """Return the names of the data of one key, where they lie on this machine."""
    if isinstance(named, str):
        return places.get(key, named)
    placed: dict[str, str | EvalSet] = {}
    for source, each in named.items():
        place = places.get(f"{key}.{source}")
        if place is None:
            placed[source] = each
        else:
            placed[source] = place if isinstance(each, str) else each.model_copy(update={"file": place})
    return placed
