"""Demands of a run that trains the groups another run has kept, and what a user should know of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isentrope.config import Config
from isentrope.errors import ConfigError
from isentrope.resolved import RUN_FILE, ResolvedRun
from isentrope.rollout.data.demonstrations import demonstration_tokens
from isentrope.rollout.data.prompts import encode, open_prompts
from isentrope.rollout.data.tokenizer import load_tokenizer
from isentrope.runfile import RunFile

if TYPE_CHECKING:
    from isentrope.check.findings import Checked
    from isentrope.learner.objective.objective import Objective


def failures(config: Config, file: RunFile, source: Path, ray_address: str) -> Iterator[ConfigError]:
    """Yield an error for everything that asks for actors, or for other machines; `source` is the other run's folder."""
    if config.learner.mode == "on_policy":
        yield ConfigError(
            'learner.mode = "on_policy" promises that every token is of the newest weights, and kept groups are of the '
            "weights of the run that made them",
            where=file.where("learner.mode"),
            fix='set learner.mode = "async"; learner.updates_per_batch = 1 and learner.epochs = 1 make a batch one '
            "update, as there",
        )
    if ray := ray_address or config.cluster.ray:
        yield ConfigError(
            f"the Ray at {ray} is given, and --only train starts its ranks on this machine alone",
            where="--ray-address" if ray_address else file.where("cluster.ray"),
            fix="leave it out",
        )
    if config.output_dir(file.path.parent) == source.resolve():
        yield ConfigError(
            f"{source} is the folder of this run itself",
            where="--groups",
            fix=f"set another run.{'output_dir' if config.run.output_dir else 'name'}",
        )


def require_same_groups(resolved: ResolvedRun, data_digest: str, source: Path, source_data: str) -> None:
    """Raise ConfigError if this run would not have made the groups of the run in `source`: with other settings, or of
    other data, of which the digests are compared."""
    if not (source / RUN_FILE).is_file():
        raise ConfigError(f"{source} has no {RUN_FILE}, which holds that run's settings", fix="restore it")
    if lines := resolved.other_groups(source):
        raise ConfigError(
            f"this run would make other groups than the run in {source}: {'; '.join(lines)}",
            where=str(source / RUN_FILE),
            fix="set them as there, also those that a method suggests; [learner] may differ but for prompts_per_batch",
        )
    if data_digest != source_data:
        raise ConfigError(
            f"the data have digest {data_digest[:8]}, and those of the run in {source} had {source_data[:8]}",
            where="data.train",
            fix="name the data, and the held-out data, of that run",
        )


def require_same_tokens(checked: "Checked", batch: Path, seed: int) -> None:
    """Raise ConfigError if the prompts of the first kept batch, of a run with this seed, have other tokens by the model
    of this run, or its groups lack what the method needs; StorageError if the batch is damaged."""
    from isentrope.learner.training.group_store import read_batch  # loads torch

    config, where = checked.config, checked.file.where("model.path")
    prompts = open_prompts(config.data, run_folder=checked.file.folder, seed=seed)
    tokenizer = load_tokenizer(checked.model.path, where, config.model)
    for group in read_batch(batch).groups:
        row = prompts.train(group.seq)
        if not np.array_equal(group.prompt, encode(row, tokenizer)):
            raise ConfigError(
                f"the prompt of kept group {group.seq} has other tokens by the tokenizer of {config.model.path}",
                where=where,
                fix="train a model with the tokenizer of the run that has kept the groups",
            )
        if checked.greedy and group.greedy_reward is None:
            raise ConfigError(
                "the method needs a greedy response to every prompt, and the kept groups have none",
                where=checked.file.where("learner.method"),
                fix="choose a method without it, or groups of a run whose method has it",
            )
        wanted = (
            demonstration_tokens(row, tokenizer, config.sampling.max_new_tokens) if checked.demonstrations else None
        )
        if wanted is not None and [each.tokens.tolist() for each in group.demonstrations] != [wanted.tolist()]:
            raise ConfigError(
                f"the method trains demonstrations, and kept group {group.seq} does not have that of its prompt",
                where=checked.file.where("learner.method"),
                fix="choose a method without them, or groups of a run whose method has them",
            )


def notes(config: Config, objective: "Objective") -> Iterator[str]:
    """Yield what is otherwise than in a run with actors."""
    if not objective.correction and objective.stats != "rollout":
        yield (
            "the method has no correction: once these weights differ from those that sampled, kept tokens still count "
            "as their own; importance_effective in metrics.jsonl says how far they are apart"
        )
    if objective.refill:
        yield "groups of one outcome are trained as they were kept: nothing makes others instead"
    if config.data.eval_sets:
        yield "nothing is evaluated while it trains, as there are no actors: `isentrope eval` does afterwards"
