"""The capacity of a run: what it needs of the broker, of every rank, of disks and network, and how many actors."""

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from isentrope.capacity import model_memory, sizes
from isentrope.capacity.model_memory import ModelFacts
from isentrope.capacity.sizes import Shape
from isentrope.config import Config
from isentrope.rollout.wire.control import PRESSING


@dataclass(frozen=True, slots=True)
class Speeds:
    """Speeds in bytes and tokens per second; None: not known."""

    disk: float
    network: float
    actor_tokens: float | None = None
    """Tokens that one actor generates."""
    learner_tokens: float | None = None
    """Tokens that the learner trains while it does not wait."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Demands of a run, and what is known of its groups."""

    config: Config
    model: ModelFacts
    shape: Shape
    """Of a group; the largest there can be, or the mean of a run."""
    retired_share: float = 0.0
    """Groups that are replaced for each that is trained."""
    reference: bool = False
    """True if every rank also holds a reference policy."""
    critic: bool = False
    """True if a critic is trained beside the policy."""


class Figures(BaseModel):
    """The capacity of a run. The fields are those of `isentrope plan --json`."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int
    """Tokens of a prompt, as the figures below take them."""
    response_tokens: int
    """Tokens of a response, as the figures below take them."""
    group_bytes: int
    """Size of a group, which counts against `redis.max_bytes`."""
    batch_groups: int
    """Groups that are generated for a batch, those that are replaced included."""
    budget_bytes: int
    """`redis.max_bytes`."""
    broker_groups: int
    """Most groups that the broker holds: those since the last checkpoint, and those of the batches ahead."""
    broker_bytes: int
    """Memory that the broker takes for them, and for the run."""
    admission_closes_in_batch: int | None
    """Batch after a checkpoint in which the budget would close admission if no checkpoint came early; null: the next
    one comes before by `learner.checkpoint_every`."""
    checkpoint_batches: int
    """Batches between two checkpoints: `learner.checkpoint_every`, or fewer where groups press on the budget."""
    kept_bytes: int
    """Size of what `learner.retain` leaves of each batch in the run's folder; 0: nothing is kept."""
    weights_bytes: int
    """Size of one version of the weights."""
    rank_bytes: int
    """Memory of a rank on its GPU, or on a machine without one: weights, gradients, optimizer and activations; with a
    critic, the weights, gradients and optimizer of both."""
    rank_host_bytes: int
    """Memory of a rank on its machine besides: the whole model while it loads, then its share of a batch and the copy
    from which its share of a version is written."""
    rank_0_bytes: int
    """Memory that rank 0 has above that: the groups of the batches ahead, and the batch that it divides."""
    fits_gpu: bool | None
    """True if `rank_bytes` fit into the stated memory of a GPU; null: none was stated."""
    write_s: float
    """Seconds in which a version is written while training goes on, at the stated speed of the disk."""
    fetch_s: float
    """Seconds in which one machine fetches a version, at the stated speed of the network."""
    actors: int | None
    """Actors that keep the learner busy, at the measured or stated rates; null: a rate is not known."""


def figures(needs: Needs, speeds: Speeds, gpu_bytes: int | None = None) -> Figures:
    """Return the capacity of a run; `gpu_bytes` is the memory of one GPU."""
    config, model, shape = needs.config, needs.model, needs.shape
    learner = config.learner
    group = sizes.group_bytes(shape)
    per_batch = math.ceil(learner.prompts_per_batch * (1 + needs.retired_share))
    ahead = (learner.in_mode(learner.mode).staleness.max_lag + 1) * per_batch
    budget = config.redis.max_bytes // group + 1  # groups; the last is issued when the budget is not yet spent
    most = learner.checkpoint_every * per_batch + ahead
    closes = budget < most
    pressing = int(PRESSING * config.redis.max_bytes) // group  # groups; with more a checkpoint comes after a batch
    between = min(learner.checkpoint_every, max(1, (pressing - ahead) // per_batch + 1))
    held = between * per_batch + ahead
    resident = _rank_bytes(needs)
    share = math.ceil(learner.prompts_per_batch / learner.ranks)
    batch = sizes.batch_bytes(shape, share) + sizes.padded_bytes(shape, share)
    return Figures(
        prompt_tokens=shape.prompt_tokens,
        response_tokens=shape.response_tokens,
        group_bytes=group,
        batch_groups=per_batch,
        budget_bytes=config.redis.max_bytes,
        broker_groups=held,
        broker_bytes=sizes.broker_bytes(shape) * held + sizes.RUN_BYTES,
        checkpoint_batches=between,
        admission_closes_in_batch=(budget - 1) // per_batch + 1 if closes else None,
        kept_bytes=group * learner.prompts_per_batch if learner.retain == "groups" else 0,
        weights_bytes=model.size_bytes,
        rank_bytes=resident,
        rank_host_bytes=max(model.size_bytes, batch + model.size_bytes // learner.ranks),
        rank_0_bytes=ahead * group + sizes.batch_bytes(shape, learner.prompts_per_batch),
        fits_gpu=None if gpu_bytes is None else resident <= gpu_bytes,
        write_s=model.size_bytes / speeds.disk,
        fetch_s=model.size_bytes / speeds.network,
        actors=_actors(speeds, needs.retired_share),
    )


def _rank_bytes(needs: Needs) -> int:
    learner, model = needs.config.learner, needs.model
    trained = model_memory.training_bytes(model, ranks=learner.ranks, zero_stage=learner.zero_stage)
    shape = needs.shape
    update = learner.prompts_per_batch // learner.updates_per_batch * shape.group_size
    tokens = min(learner.micro_batch_tokens, update * (shape.prompt_tokens + shape.response_tokens - 1))
    saved = model_memory.activation_bytes(model, tokens=tokens, checkpointing=learner.gradient_checkpointing)
    return trained * (2 if needs.critic else 1) + saved + (model.size_bytes if needs.reference else 0)


def _actors(speeds: Speeds, retired_share: float) -> int | None:
    if speeds.actor_tokens is None or speeds.learner_tokens is None:
        return None
    return math.ceil(speeds.learner_tokens * (1 + retired_share) / speeds.actor_tokens)
