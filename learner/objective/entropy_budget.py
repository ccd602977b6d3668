"""The entropy budget of a batch: how much its policy term moves the entropy, to first order, by kind of token.

N responses, T tokens of the longest, U updates.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from isentrope.learner.objective.batch import Batch, Prepared
from isentrope.learner.objective.stages.tokens import exact_entropy_change

LIKELY = 0.5
"""Probability from which on a token is likely: no other token can be likelier."""


@torch.no_grad()
def entropy_budget(batch: Batch, prepared: Prepared) -> dict[str, Mapping[str, float]]:
    """Return the predicted change of the mean entropy of a trained token under a step of size 1 on the policy term, by
    sign of advantage and probability, and by data set; the parts of each add up to the whole.

    A step moves the free logits of every token along the gradient of its own part of the loss, at the policy before the
    batch: neither what tokens share in the network nor what other terms of the loss do is in it. Empty if nothing is
    trained.
    """
    mask, old = prepared.mask, batch.statistics
    tokens = int(mask.sum())
    if not tokens:
        return {}
    change = exact_entropy_change(old.logp, old.logp, old.entropy, old.sum_p2, old.sum_p2_logp, prepared.advantage)
    share = (prepared.reduce.sum(0)[:, None] * prepared.weight).to(change.dtype)
    change = torch.where(mask, change * share, 0.0).double()
    sides = {"positive": prepared.advantage > 0, "negative": prepared.advantage < 0}
    likely = old.logp.exp() > LIKELY
    kinds = {
        f"{side}_{chance}": here & there
        for side, here in sides.items()
        for chance, there in {"likely": likely, "rare": ~likely}.items()
    }
    sources = {name: (batch.source == place)[:, None] for place, name in enumerate(batch.source_names)}
    return {
        "entropy_budget": {name: _sum(change, where) / tokens for name, where in kinds.items()},
        "entropy_budget_by_source": {
            name: _sum(change, where) / tokens for name, where in sources.items() if (mask & where).any()
        },
    }


def _sum(change: Tensor, where: Tensor) -> float:
    return float(change.masked_fill(~where, 0.0).sum())
