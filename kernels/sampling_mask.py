"""Log-probabilities renormalised over the tokens among which an engine has chosen, by plain PyTorch on any device.

Letters: M packed tokens, V vocabulary, W tokens of the largest set.
"""

import math

import torch
from torch import Tensor


def renormalised(logp: Tensor, logits: Tensor, targets: Tensor, kept: Tensor | None, temperature: float) -> Tensor:
    """Return log-probabilities of softmax(logits / temperature) restricted to the kept tokens: [M], differentiable.

    logp: [M], over the whole vocabulary; stands where no set is given. logits: [M, V]; targets: [M] int64, in their
    sets; kept: [M, W] int64, -1 after the tokens of a set. The gradient of a row is 0 off its set.
    """
    if kept is None:
        return logp
    inside = kept >= 0
    wide = logp.dtype
    scores = (logits.gather(1, kept.clamp_min(0)).to(wide) / temperature).masked_fill(~inside, -math.inf)
    given = inside.any(1)
    total = scores.masked_fill(~given[:, None], 0.0).logsumexp(1)  # a row of -inf alone has no gradient
    score = logits.gather(1, targets[:, None])[:, 0].to(wide) / temperature
    return torch.where(given, score - total, logp)
