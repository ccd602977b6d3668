"""The byte budget of the broker: the groups of one batch and of those that may run ahead must fit into it."""

from isentrope.capacity.sizes import Shape, group_bytes
from isentrope.config import Config
from isentrope.errors import ConfigError
from isentrope.rollout.rewards.correctness import reward_names
from isentrope.runfile import RunFile

_KEY = "redis.max_bytes"


def require_budget(
    config: Config, file: RunFile, prompt_tokens: int, refill: int, *, demonstrations: bool = False
) -> None:
    """Raise ConfigError if the largest groups of a batch could fill the budget before the batch is complete.

    Trained groups do not count: a checkpoint comes early when the budget is half full.

    Args:
        prompt_tokens: longest prompt.
        refill: groups that may be replaced for each group of a batch.
        demonstrations: a group has one beside its responses, which takes less than one of them.
    """
    sampling, learner = config.sampling, config.learner
    rewards = tuple(reward_names(config.data))
    size = group_bytes(Shape(sampling.group_size + demonstrations, prompt_tokens, sampling.max_new_tokens, rewards))
    batches = learner.staleness.max_lag + 1 + refill
    needed = learner.prompts_per_batch * batches * size
    if needed > config.redis.max_bytes:
        raise ConfigError(
            f"redis.max_bytes = {config.redis.max_bytes} is less than the {needed} bytes of {batches} x "
            f"{learner.prompts_per_batch} groups of up to {size} bytes: issued for a batch, ahead of it, or replaced",
            where=file.where(_KEY),
            fix=f"set redis.max_bytes = {needed}, if the broker has the memory; or lower sampling.max_new_tokens, "
            "sampling.group_size, learner.prompts_per_batch or learner.staleness.max_lag",
        )
