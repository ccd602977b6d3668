"""The run file: composes the folders' own tables into one model, checks combinations of keys, and digests it.

`runfile` reads the file; `check` tests everything that the keys point to.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from isentrope.actors.config import ActorsConfig
from isentrope.errors import ConfigError
from isentrope.launch.config import ClusterConfig
from isentrope.learner.config import LearnerConfig
from isentrope.rollout.config import (
    TASK,
    DataConfig,
    ModelConfig,
    RedisConfig,
    RunConfig,
    SamplingConfig,
    Section,
    WeightsConfig,
)
from isentrope.rollout.data.expression import Condition
from isentrope.rollout.data.mixture import require_weights
from isentrope.rollout.data.passes import SHUFFLED
from isentrope.rollout.data.prompts import DEMONSTRATION
from isentrope.rollout.depot.interface import check_url, is_read_only
from isentrope.rollout.depot.server import Address
from isentrope.rollout.rewards.correctness import correctness_of
from isentrope.runfile import RunFile, raise_all, read, read_text, salvage, validate

MAY_CHANGE: Collection[str] = frozenset(
    {
        "run.output_dir",  # a moved folder is the same run
        "run.base_dir",
        "actors",
        "cluster",
        "redis",
        "data.reward_memory_gib",
        "data.reward_timeout_s",
        "data.reward_variables",
        "data.sandbox",
        "data.sandbox_folders",
        "data.eval_prompts",  # evaluation is outside the ledger and trains nothing
        "data.eval_samples",
        "data.eval_temperature",
        "data.eval_top_p",
        "data.bundle",
        "weights.keep",
        "weights.depot",
        "weights.serve",
        "weights.relay_port",
        "learner.batches",  # a finished run may be prolonged
        "learner.micro_batch_tokens",  # packing: the gradient is the same, but for rounding
        "learner.gradient_checkpointing",
        "learner.ranks",  # a checkpoint is converted; the summary says when
        "learner.checkpoint_every",
        "learner.keep_checkpoints",
        "learner.retain",
        "learner.eval_every",
        "learner.start_timeout_s",
        "learner.stall_timeout_s",
        "learner.collective_timeout_s",
        "learner.alarms",
        "learner.attribution_every",
        "learner.tensorboard",
    }
)
"""Tables and keys that another start of the same run may change: they set where and how fast, not what is learned.

The mode is not among them: a run continues in the mode it was in, and changes it by `isentrope mode`.
"""

MADE_BY: Collection[str] = frozenset({"model", "data", "sampling", "learner.prompts_per_batch"})
"""Tables and keys that decide which groups a run makes: another run that trains them has the same, but for what
`MAY_CHANGE` names and for `PLACES`."""

PLACES: Collection[str] = frozenset({"model.path", "model.reference", "data.train", "data.eval"})
"""Keys that say where something is: data are the same by their digest, another model is trained off-policy, and no
group depends on the reference."""


LATER: Mapping[str, object] = {
    "model.reference": "",
    "data.mixture": {},
    "data.order": SHUFFLED,
    "data.stages": 1,
    "data.stage_passes": 1,
    "data.keep": "",
    "data.steps": "",
    "learner.begin_from": "",
    "data.demonstration": "",
    "learner.critic": {"path": None, "learning_rate": None},
}
"""Keys that came after the first folders of this schema, with the values by which those runs were made: a digest is
the same without them."""


STAND_INS: Mapping[str, object] = {"run.name": "unnamed", "model.path": "", "data.train": ""}
"""Values for the keys without a default, so that the rest can be looked at when they are missing."""


class Config(Section):
    """The whole configuration of a run."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    redis: RedisConfig = Field(default_factory=RedisConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    actors: ActorsConfig = Field(default_factory=ActorsConfig)
    learner: LearnerConfig = Field(default_factory=LearnerConfig)
    weights: WeightsConfig = Field(default_factory=WeightsConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)

    @property
    def rewards(self) -> list[str]:
        """Names of the reward functions; none if a task's own verifier is used."""
        reward = self.data.reward
        return [reward] if isinstance(reward, str) and reward else list(reward)

    @property
    def has_task(self) -> bool:
        """True if the training prompts are a built-in task's."""
        return bool(self.data.task)

    def output_dir(self, folder: Path) -> Path:
        """Return the absolute folder of the run; relative ones start at `folder`, in which the run file lies."""
        return (folder / (self.run.output_dir or f"runs/{self.run.name}")).resolve()


def load(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, RunFile]:
    """Read a run file as configuration.

    Raises:
        ConfigError: a mistake in it; several as an ExceptionGroup.
    """
    return accept(read(path, overrides))


def load_with_errors(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, RunFile, list[Exception], set[str]]:
    """Read a run file as configuration, with what is wrong in it, and the keys that are wrong, which have their
    defaults. Combinations of keys are looked at when each of them is right."""
    file = read(path, overrides)
    config, errors, wrong = salvage(file, Config, STAND_INS)
    file = dataclasses.replace(file, base_dir=config.run.base_dir)
    try:
        config = with_texts(config, file)
    except ConfigError as error:
        errors.append(error)
        wrong.add(error.where.rpartition(": ")[2])
    return config, file, [*errors] or list(contradictions(config, file)), wrong


def accept(file: RunFile) -> tuple[Config, RunFile]:
    """Validate a run file that was read or made; errors as `load`."""
    config = validate(file, Config)
    file = dataclasses.replace(file, base_dir=config.run.base_dir)
    config = with_texts(config, file)
    raise_all(list(contradictions(config, file)))
    return config, file


def with_texts(config: Config, file: RunFile) -> Config:
    """Return the configuration with the texts that it names by file, so that the digest and every machine have them.

    Raises:
        ConfigError: a file cannot be read, or a text is a file's name.
    """
    template = read_text(file, "model.chat_template", config.model.chat_template)
    if template and "{" not in template:
        raise ConfigError(
            f"{template!r} is not a chat template: it has no {{{{ ... }}}}",
            where=file.where("model.chat_template"),
            fix="write file: and the path of a template, or the template itself",
        )
    system = read_text(file, "data.system_prompt", config.data.system_prompt)
    model = config.model.model_copy(update={"chat_template": template})
    data = config.data.model_copy(update={"system_prompt": system})
    return config.model_copy(update={"model": model, "data": data})


def digest(config: Config, objective: object) -> str:
    """Return the digest of what a run learns, so that the same folder or run name cannot go on as something else.

    `objective` is the merged objective as plain values: it stands for `learner.method` and the presets' contents.
    """
    facts = config.model_dump(mode="json")
    facts["learner"] |= {"method": "", "objective": objective}
    for key, default in LATER.items():
        table, _, name = key.partition(".")
        if facts[table][name] == default:
            del facts[table][name]
    for key in MAY_CHANGE:
        table, _, name = key.partition(".")
        if name:
            del facts[table][name]
        else:
            del facts[table]
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def contradictions(config: Config, file: RunFile) -> Iterator[ConfigError]:
    """Yield an error for every combination of keys that is not allowed."""
    yield from _sizes(config, file)
    yield from _broker(config, file)
    yield from _sources(config, file)
    yield from _depots(config, file)
    lag = 0 if config.learner.mode == "on_policy" else config.learner.staleness.max_lag
    if lag < config.weights.publish_every - 1:
        yield ConfigError(
            f"weights.publish_every = {config.weights.publish_every} needs a lag of at least "
            f"{config.weights.publish_every - 1} batches, and {lag} are allowed",
            where=file.where("weights.publish_every"),
            fix="lower it, or raise learner.staleness.max_lag (on_policy always has 0)",
        )
    yield from _truncation(config, file)


def _truncation(config: Config, file: RunFile) -> Iterator[ConfigError]:
    """Yield what is wrong with sampling among the likeliest tokens."""
    sampling = config.sampling
    if sampling.top_p < 1 and not sampling.truncates:
        yield ConfigError(
            f"sampling.top_p = {sampling.top_p:g} needs sampling.top_k: the tokens that it keeps travel in each "
            "record, and without a limit they may be the whole vocabulary",
            where=file.where("sampling.top_p"),
            fix="set sampling.top_k, or leave top_p out",
        )
    size = 4 * (sampling.top_k + 1) * sampling.max_new_tokens * sampling.group_size
    if sampling.truncates and size > config.redis.max_record_bytes:
        yield ConfigError(
            f"a group of sampling.top_k = {sampling.top_k} may be {size} bytes of sampling masks alone, and "
            f"redis.max_record_bytes = {config.redis.max_record_bytes}",
            where=file.where("sampling.top_k"),
            fix="lower it, sampling.max_new_tokens or sampling.group_size, or raise redis.max_record_bytes",
        )


def _depots(config: Config, file: RunFile) -> Iterator[ConfigError]:
    """Yield what is wrong with where versions are published."""
    depot, serve = config.weights.depot, config.weights.serve
    if is_read_only(depot):
        yield ConfigError(
            f"weights.depot = {depot!r} cannot be written: a depot over HTTP is read only",
            where=file.where("weights.depot"),
            fix="offer the run's folder by weights.serve, or give an object store",
        )
    for key, check, value in (("depot", check_url, depot), ("serve", Address.parse, serve)):
        try:
            if value:
                check(value)
        except ConfigError as error:
            yield ConfigError(error.what, where=file.where(f"weights.{key}"), fix=error.fix)


def _sizes(config: Config, file: RunFile) -> Iterator[ConfigError]:
    actors = config.actors
    if not actors.min <= actors.count <= (actors.count if actors.max is None else actors.max):
        yield ConfigError(
            f"actors.count = {actors.count} is not within actors.min = {actors.min} and actors.max = {actors.max}",
            where=file.where("actors.count"),
            fix="change one of them",
        )
    learner, sampling, longest = config.learner, config.sampling, config.model.max_model_len
    if learner.prompts_per_batch % learner.updates_per_batch:
        yield ConfigError(
            f"{learner.prompts_per_batch} groups cannot be split into {learner.updates_per_batch} equal updates",
            where=file.where("learner.updates_per_batch"),
            fix="make learner.prompts_per_batch a multiple of learner.updates_per_batch",
        )
    if longest is not None and sampling.max_new_tokens >= longest:
        yield ConfigError(
            f"sampling.max_new_tokens = {sampling.max_new_tokens} leaves no room for a prompt in "
            f"model.max_model_len = {longest}",
            where=file.where("sampling.max_new_tokens"),
            fix="lower it, or raise model.max_model_len",
        )
    if "min_group" in sampling.model_fields_set and sampling.min_group > sampling.group_size:
        yield ConfigError(
            f"sampling.min_group = {sampling.min_group} is more than sampling.group_size = {sampling.group_size}",
            where=file.where("sampling.min_group"),
            fix="lower it to at most sampling.group_size",
        )
    if learner.micro_batch_tokens <= sampling.max_new_tokens:
        yield ConfigError(
            f"learner.micro_batch_tokens = {learner.micro_batch_tokens} cannot hold a response of "
            f"sampling.max_new_tokens = {sampling.max_new_tokens} with its prompt",
            where=file.where("learner.micro_batch_tokens"),
            fix="raise it, or lower sampling.max_new_tokens",
        )


def _broker(config: Config, file: RunFile) -> Iterator[ConfigError]:
    learner, redis = config.learner, config.redis
    if learner.ranks > 1 and redis.timeout_s >= learner.collective_timeout_s:
        yield ConfigError(
            f"redis.timeout_s = {redis.timeout_s:g} is not below learner.collective_timeout_s = "
            f"{learner.collective_timeout_s:g}, in which the other ranks give up one that waits for the broker",
            where=file.where("redis.timeout_s"),
            fix="lower it, or raise learner.collective_timeout_s",
        )
    if redis.passwords and redis.password_file:
        yield ConfigError(
            f"redis.passwords = {redis.passwords!r} has a password for each role, and redis.password_file = "
            f"{redis.password_file!r} one for all",
            where=file.where("redis.passwords"),
            fix="leave one of them out",
        )
    if redis.max_record_bytes > redis.max_bytes:
        yield ConfigError(
            f"redis.max_record_bytes = {redis.max_record_bytes} is more than redis.max_bytes = {redis.max_bytes}",
            where=file.where("redis.max_record_bytes"),
            fix="lower it, or raise redis.max_bytes",
        )


def _sources(config: Config, file: RunFile) -> Iterator[ConfigError]:
    data, task = config.data, config.has_task
    if not config.rewards and not task:
        yield ConfigError(
            "key data.reward is missing",
            where=file.where("data.reward"),
            fix="name a reward: built-in, or module:function",
        )
    if data.system_prompt and task:
        yield ConfigError(
            f"the prompts of {data.train} are text, which has no place for data.system_prompt",
            where=file.where("data.system_prompt"),
            fix="leave it out",
        )
    if data.reward_weights and not any(data.reward_weights):
        yield ConfigError(
            "data.reward_weights are all 0, so every reward is 0",
            where=file.where("data.reward_weights"),
            fix="give one function a weight",
        )
    if data.reward_weights and len(data.reward_weights) != len(config.rewards):
        yield ConfigError(
            f"data.reward_weights has {len(data.reward_weights)} numbers for {len(config.rewards)} rewards",
            where=file.where("data.reward_weights"),
            fix="give one weight per reward, or none",
        )
    yield from _choices(data, file)
    try:
        correctness_of(data)
    except ConfigError as error:
        yield ConfigError(error.what, where=file.where("data.correct"), fix=error.fix)
    if config.learner.eval_every and not data.eval_sets:
        yield ConfigError(
            f"learner.eval_every = {config.learner.eval_every}, but there is no held-out data",
            where=file.where("learner.eval_every"),
            fix="set data.eval, or leave eval_every out",
        )


def _choices(data: DataConfig, file: RunFile) -> Iterator[ConfigError]:
    """Yield what is wrong with how training prompts are chosen and ordered, and their steps found."""
    given = {key: key.removeprefix("data.") for key in LATER if key.startswith("data.") and key != DEMONSTRATION}
    chosen = [key for key, name in given.items() if getattr(data, name) != LATER[key]]
    if data.task and chosen:
        lacking = "none of them has steps" if chosen == ["data.steps"] else "there are none to choose or order"
        yield ConfigError(
            f"{data.task} makes its prompts one after another: {lacking}",
            where=file.where(chosen[0]),
            fix="leave it out, or write the prompts into a file",
        )
        return
    if isinstance(data.train, dict):
        for name in [*(data.train.values() or [""])]:
            if not name or name.startswith(TASK):
                yield ConfigError(
                    f"{name!r} cannot be one of several files" if name else "data.train names no file",
                    where=file.where("data.train"),
                    fix="name files or data sets",
                )
    try:
        require_weights(list(data.train) if isinstance(data.train, dict) else [], list(data.mixture))
        if data.keep:
            Condition(data.keep)
    except ConfigError as error:
        yield ConfigError(error.what, where=file.where(error.where), fix=error.fix)
    if data.order == SHUFFLED and data.stages > 1:
        yield ConfigError(
            f"data.stages = {data.stages} cuts an order, and data.order is {SHUFFLED!r}",
            where=file.where("data.stages"),
            fix='set data.order to "file" or "scored:<column>", or leave it out',
        )
    if data.stages == 1 and data.stage_passes > 1:
        yield ConfigError(
            f"data.stage_passes = {data.stage_passes} needs several data.stages",
            where=file.where("data.stage_passes"),
            fix="set data.stages, or leave it out",
        )
