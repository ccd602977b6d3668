"""The critic's part of an objective: its targets for a batch, how well its values explain them, its loss in an update.

As the policy's loss, that of a critic is a sum with global denominators in it, those of the policy term: the parts of
all micro-batches of all ranks add up to it. N responses, n those of a micro-batch, T tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from isentrope.learner.objective.batch import LossParts, Prepared
from isentrope.learner.objective.schema import Stage
from isentrope.learner.objective.stages import advantage, critic


def targets(stage: Stage, baseline: Stage, scope: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the `returns` that the values are trained towards, and the `rewards_to_come` that they are measured
    against: [N, T] each, by name; nothing without a critic.

    scope: of `Objective.prepare`, with `token_reward` and the critic's `values` of before the first update.
    """
    if stage.runs(critic.none):
        return {}
    gamma = float(baseline.params.get("gamma", 1.0))
    reward, values, mask = scope["token_reward"], scope["values"], scope["mask"]
    return {
        "returns": advantage.value_targets(
            reward, values, mask, gamma=gamma, lambda_value=float(stage.params["lambda_value"])
        ),
        "rewards_to_come": advantage.returns(reward, mask, gamma=gamma),
    }


def metrics(scope: Mapping[str, Any]) -> dict[str, float]:
    """Return how well values explain the rewards to come, before the first update; empty without a critic."""
    if "returns" not in scope:
        return {}
    mask = scope["mask"]
    come, values = scope["rewards_to_come"][mask].double(), scope["values"][mask].double()
    found = {"value_mean": float(values.mean()), "return_mean": float(come.mean())}
    explained = explained_variance(values, come)
    return found if explained is None else found | {"explained_variance": explained}


def explained_variance(values: Tensor, returns: Tensor) -> float | None:
    """Return 1 - Var(returns - values) / Var(returns): 1 is exact, 0 as good as a constant; None: all are equal."""
    variance = float(returns.var(correction=0))
    return 1 - float((returns - values).var(correction=0)) / variance if variance > 0 else None


def warms_up(stage: Stage, number: int) -> bool:
    """Return True if only the critic is trained on the batch after `number` others."""
    return not stage.runs(critic.none) and number < int(stage.params["warmup_batches"])


def loss(stage: Stage, prepared: Prepared, update: int, rows: Tensor, values: Tensor) -> LossParts:
    """Return the part of the critic's loss in an update that responses `rows` add.

    Args:
        stage: the critic of the objective, with what controllers have set.
        prepared: the batch.
        update: number of the update in those given to `Objective.prepare`.
        rows: [n] int64, response numbers of the batch.
        values: [n, T], of the critic as it is now, with gradient; values off the mask are ignored.
    """
    assert prepared.returns is not None, "an update without tokens is skipped"
    mask = prepared.mask[rows]
    scope = {
        "values": torch.where(mask, values, 0.0),
        "values_old": prepared.batch.supplied["values"][rows].masked_fill(~mask, 0.0),
        "returns": prepared.returns[rows],
    }
    reduce = prepared.reduce[update, rows].to(values.dtype)[:, None]
    value = (reduce * torch.where(mask, stage(scope), 0.0)).sum()
    return LossParts(value, {"loss_value": value.detach().double()}, {})
