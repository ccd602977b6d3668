"""What the kernels should compute, in float64 by autograd, and inputs for them. Knows formulas, no kernel."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from isentrope.kernels.policy import LossRules, TokenInputs

RULES = {
    "plain": LossRules(),
    "dual": LossRules(clip_high=0.28, clip_dual=3.0, entropy_coef=0.01),
    "no_clip": LossRules(clip_low=None, clip_high=None),
    "kl_cov": LossRules(clip_low=None, clip_high=None, select="top_cov", action="abs_kl", share=0.1),
    "clip_cov": LossRules(select="band_cov", share=0.2, band=(-0.2, 2.0)),
    "top_entropy": LossRules(select="top_entropy", share=0.3),
    "top_entropy_kl": LossRules(select="top_entropy", action="abs_kl", share=0.3),
    "top_entropy_bonus": LossRules(select="top_entropy", share=0.3, entropy_coef=0.1, max_lag=2),
}


def log_softmax(logits: Tensor, temperature: "float | Tensor" = 1.0, softcap: float = 0.0) -> Tensor:
    """[M, V] float64, with forbidden entries at a finite floor."""
    z = logits.double()
    if softcap:
        z = softcap * torch.tanh(z / softcap)
    divisor = temperature.double()[:, None] if isinstance(temperature, Tensor) else temperature
    return torch.log_softmax(z / divisor, dim=1).clamp_min(-1e5)


def statistics(
    logits: Tensor, targets: Tensor, temperature: "float | Tensor" = 1.0, softcap: float = 0.0
) -> tuple[Tensor, Tensor]:
    """logp of the targets and entropy: [M] float64, differentiable."""
    y = log_softmax(logits, temperature, softcap)
    return y.gather(1, targets[:, None])[:, 0], -(y.exp() * y).sum(1)


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a part of the largest expected value."""
    scale = float(expected.abs().max())
    worst = float((found.double() - expected.double()).abs().max())
    return worst / scale if scale else worst


@dataclass
class Sample:
    """Inputs of a policy loss over M tokens and V entries, and its value in float64."""

    logits: Tensor
    targets: Tensor
    tokens: TokenInputs
    """With a temperature of 1, every mask, weight and age."""
    temperature: float = 0.8

    @property
    def tempered(self) -> TokenInputs:
        """The tokens at the sample's temperature."""
        return replace(self.tokens, temperature=self.temperature)

    @property
    def bare(self) -> TokenInputs:
        """The tokens as they count without mask, weights and ages."""
        return TokenInputs.averaged(self.tokens.advantage, self.tokens.logp_old)

    @classmethod
    def draw(cls, count: int = 24, vocabulary: int = 50, seed: int = 0) -> "Sample":
        """Ratios on both sides of every bound, masks, weights and ages."""
        torch.manual_seed(seed)
        logits, targets = 3 * torch.randn(count, vocabulary), torch.randint(vocabulary, (count,))
        logp, _ = statistics(logits, targets, cls.temperature)
        mask, weight, lag = torch.rand(count) > 0.3, torch.rand(count), torch.randint(5, (count,))
        random = torch.randint(-(2**31), 2**31 - 1, (count,), dtype=torch.int32)
        advantage = torch.randn(count) * (torch.rand(count) > 0.1)
        tokens = TokenInputs.averaged(advantage, (logp + 0.3 * torch.randn(count)).float(), mask)
        return cls(logits, targets, replace(tokens, weight=weight, lag=lag, random=random))

    def loss(self, logits: Tensor, rules: LossRules, selected: Tensor) -> Tensor:
        """Autograd's answer for `logits` float64, given the selected tokens."""
        logp, entropy = statistics(logits, self.targets, self.temperature)
        assert self.tokens.lag is not None
        difference = logp - self.tokens.logp_old.double()
        ratio, advantage = difference.exp(), self.tokens.advantage.double()
        loss = -advantage * ratio
        if rules.clip_low is not None and rules.clip_high is not None:
            loss = torch.maximum(loss, -advantage * ratio.clamp(1 - rules.clip_low, 1 + rules.clip_high))
        if rules.clip_dual is not None:
            loss = torch.where(advantage < 0, torch.minimum(loss, -advantage * rules.clip_dual), loss)
        loss = self.tokens.weight.double() * loss
        if rules.select != "none":
            dropped = torch.zeros_like(loss) if rules.action == "drop" else loss + rules.kl_coef * difference.abs()
            loss = torch.where(selected, dropped, loss)
        keep = self.tokens.mask if rules.max_lag is None else self.tokens.mask & (self.tokens.lag <= rules.max_lag)
        return torch.where(keep, loss - rules.entropy_coef * entropy, 0.0).sum() / self.tokens.mask.sum()
