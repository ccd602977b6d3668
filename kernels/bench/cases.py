"""Cases of the comparison: for each quantity the same work by every provider, on the same inputs.

A contender is built from inputs and gives a function that returns log-prob, entropy and gradient, as far as it has
them, for comparison with float64. `cov` losses are KL-Cov with the shares of the paper. Shapes: B sequences of L
positions, the last of each without a token; M = B L rows, V vocabulary, D hidden.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from isentrope.kernels.bench import peers
from isentrope.kernels.fused import fused_policy_loss, logp_entropy
from isentrope.kernels.linear import fused_linear_policy_loss
from isentrope.kernels.policy import LossRules, TokenInputs
from isentrope.kernels.select import top_k_mask

PPO = LossRules()
KL_COV = LossRules(clip_low=None, clip_high=None, select="top_cov", action="abs_kl", share=0.002)
TOP_ENTROPY = LossRules(select="top_entropy", share=0.2)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """logp, entropy: [M]. gradient: of the logits [M, V] or of the hidden states [M, D]."""

    logp: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    gradient: torch.Tensor | None = None


Call = Callable[[], CaseResult]


@dataclass(slots=True)
class Inputs:
    """logits: a call may overwrite them; `restore` copies `original` back. hidden, weight: of the linear cases."""

    sequences: int
    original: torch.Tensor
    logits: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    advantage: torch.Tensor
    logp_old: torch.Tensor
    hidden: torch.Tensor | None = None
    weight: torch.Tensor | None = None

    @classmethod
    def draw(cls, sequences: int, length: int, vocabulary: int, dtype: torch.dtype, device: str) -> "Inputs":
        """Draw peaked logits, as of a trained model: a fraction of a nat of entropy, |z| up to about 30."""
        count = sequences * length
        original = torch.empty(count, vocabulary, dtype=dtype, device=device)
        targets = torch.randint(vocabulary, (count,), device=device)
        for rows in torch.arange(count, device=device).split(1024):
            z = 2 * torch.randn(len(rows), vocabulary, device=device)
            z.scatter_add_(1, targets[rows, None], 14 + 6 * torch.rand(len(rows), 1, device=device))
            original[rows] = z.to(dtype)
        mask = torch.ones(sequences, length, dtype=torch.bool, device=device)
        mask[:, -1] = False
        advantage = torch.randn(sequences, 1, device=device).expand(sequences, length).reshape(-1)
        old = -torch.rand(count, device=device)
        return cls(sequences, original, original.clone(), targets, mask.view(-1), advantage, old)

    @classmethod
    def draw_hidden(cls, sequences: int, length: int, vocabulary: int, width: int, device: str) -> "Inputs":
        """Draw hidden states and a head in bfloat16."""
        inputs = cls.draw(sequences, length, 2, torch.bfloat16, device)
        inputs.hidden = torch.randn(sequences * length, width, device=device, dtype=torch.bfloat16)
        inputs.weight = (torch.randn(vocabulary, width, device=device) * 4 / width**0.5).bfloat16()
        inputs.targets = torch.randint(vocabulary, (sequences * length,), device=device)
        return inputs

    def restore(self) -> None:
        """Restore the logits after a call in place."""
        self.logits.copy_(self.original)

    def variable(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the leaf to differentiate by, and the logits as a model gives them: not a leaf, but not a copy."""
        leaf = self.logits.detach().requires_grad_()
        return leaf, leaf.view_as(leaf)

    def heads(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden states and weight that require gradients."""
        assert self.hidden is not None and self.weight is not None
        return self.hidden.detach().requires_grad_(), self.weight.detach().requires_grad_()


Build = Callable[[Inputs], Call]


def ppo(logp: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """Return the plain loss that peers leave to PyTorch."""
    ratio = (logp - inputs.logp_old).exp()
    loss = torch.maximum(-inputs.advantage * ratio, -inputs.advantage * ratio.clamp(0.8, 1.2))
    return torch.where(inputs.mask, loss, 0.0).sum() / inputs.mask.sum()


def eager_statistics(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-prob and entropy as most frameworks write them."""
    y = torch.log_softmax(logits.float(), -1)
    return y.gather(1, targets[:, None])[:, 0], -(y.exp() * y).sum(-1)


def _eager(inputs: Inputs) -> "Statistics":
    return lambda logits: eager_statistics(logits, inputs.targets)


def _compiled(inputs: Inputs) -> "Statistics":
    compiled = torch.compile(eager_statistics)
    return lambda logits: compiled(logits, inputs.targets)


def _trl(inputs: Inputs) -> "Statistics":
    apply = peers.trl_logits()._LogProbEntropyFunction.apply
    mask = inputs.mask
    return lambda logits: apply(logits, inputs.targets, 1.0, mask)


def _ours(inputs: Inputs) -> "Statistics":
    return lambda logits: logp_entropy(logits, inputs.targets, mask=inputs.mask)


Statistics = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
BuildStatistics = Callable[[Inputs], Statistics]


def _forward(build: BuildStatistics) -> Build:
    def start(inputs: Inputs) -> Call:
        function = build(inputs)

        def call() -> CaseResult:
            with torch.no_grad():
                return CaseResult(*function(inputs.logits))

        return call

    return start


def _step(build: BuildStatistics, loss_of: Callable[[Inputs], Callable[[torch.Tensor], torch.Tensor]]) -> Build:
    def start(inputs: Inputs) -> Call:
        function, loss = build(inputs), loss_of(inputs)

        def call() -> CaseResult:
            leaf, logits = inputs.variable()
            logp, entropy = function(logits)
            (gradient,) = torch.autograd.grad(loss(logp), leaf)
            return CaseResult(logp.detach(), entropy.detach(), gradient)

        return call

    return start


def _ppo_of(inputs: Inputs) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda logp: ppo(logp, inputs)


def _verl_kl_cov_of(inputs: Inputs) -> Callable[[torch.Tensor], torch.Tensor]:
    function = peers.verl_kl_cov()
    settings = SimpleNamespace(kl_cov_ratio=KL_COV.share, ppo_kl_coef=KL_COV.kl_coef)
    config = SimpleNamespace(policy_loss=settings, global_batch_info={})
    shape = (inputs.sequences, -1)
    old, advantage = inputs.logp_old.view(shape), inputs.advantage.view(shape)
    mask = inputs.mask.view(shape).float()
    return lambda logp: function(old, logp.view(shape), advantage, mask, config=config)[0]


def _fused(rules: LossRules) -> Build:
    def start(inputs: Inputs) -> Call:
        def call() -> CaseResult:
            leaf, logits = inputs.variable()
            tokens = TokenInputs.averaged(inputs.advantage, inputs.logp_old, inputs.mask)
            found = fused_policy_loss(logits, inputs.targets, tokens, rules)
            (gradient,) = torch.autograd.grad(found.loss, leaf)
            return CaseResult(found.logp, found.entropy, gradient)

        return call

    return start


def _liger(inputs: Inputs) -> Call:
    apply = peers.liger_logits().GrpoLossFunction.apply
    shape = (inputs.sequences, -1)
    ids, old, mask = (
        value.view(shape)[:, :-1].contiguous() for value in (inputs.targets, inputs.logp_old, inputs.mask)
    )
    advantage = inputs.advantage.view(shape)[:, 0].contiguous()

    def call() -> CaseResult:
        leaf, logits = inputs.variable()
        whole = logits.view(*ids.shape[:1], -1, logits.shape[1])
        loss = apply(whole, old, None, ids, advantage, mask, 1.0, 0.0, 0.2, 0.2, True, "bnpo")[0]
        (gradient,) = torch.autograd.grad(loss, leaf)
        return CaseResult(gradient=gradient)

    return call


def _linear(rules: LossRules) -> Build:
    def start(inputs: Inputs) -> Call:
        def call() -> CaseResult:
            hidden, weight = inputs.heads()
            tokens = TokenInputs.averaged(inputs.advantage, inputs.logp_old, inputs.mask)
            found = fused_linear_policy_loss(hidden, weight, inputs.targets, tokens, rules)
            gradient, _ = torch.autograd.grad(found.loss, (hidden, weight))
            return CaseResult(found.logp, found.entropy, gradient)

        return call

    return start


def _linear_peer(build: Callable[[Inputs], Callable[..., Any]]) -> Build:
    def start(inputs: Inputs) -> Call:
        function = build(inputs)

        def call() -> CaseResult:
            hidden, weight = inputs.heads()
            logp, entropy, *_ = function(hidden, weight)
            gradient, _ = torch.autograd.grad(ppo(logp, inputs), (hidden, weight))
            return CaseResult(logp.detach(), None if entropy is None else entropy.detach(), gradient)

        return call

    return start


def _linear_eager(inputs: Inputs) -> Callable[..., Any]:
    return lambda hidden, weight: eager_statistics(hidden @ weight.T, inputs.targets)


def _linear_trl(inputs: Inputs) -> Callable[..., Any]:
    apply = peers.trl_linear().ChunkedLogProbFunction.apply
    return lambda hidden, weight: apply(hidden, weight, None, inputs.targets, 1.0, 32768, None, 1.0, ("entropy",))


def _linear_verl(inputs: Inputs) -> Callable[..., Any]:
    apply = peers.verl_linear().LinearCrossEntropy.apply
    return lambda hidden, weight: apply(hidden, weight, inputs.targets, 1.0, "none", None)


def _linear_cce(inputs: Inputs) -> Callable[..., Any]:
    function = peers.cce().linear_cross_entropy
    return lambda hidden, weight: (-function(hidden, weight, inputs.targets, reduction="none"), None)


def _linear_liger(inputs: Inputs) -> Call:
    loss_of = peers.liger_linear().LigerFusedLinearGRPOLoss(beta=0.0, use_ref_model=False, loss_type="bnpo")
    shape = (inputs.sequences, -1)
    ids, old = inputs.targets.view(shape), inputs.logp_old.view(shape)
    mask, advantage = inputs.mask.view(shape).float(), inputs.advantage.view(shape)[:, 0].contiguous()

    def call() -> CaseResult:
        hidden, weight = inputs.heads()
        loss = loss_of(hidden.view(*ids.shape, -1), weight, ids, mask, advantage, old_per_token_logps=old)[0]
        gradient, _ = torch.autograd.grad(loss, (hidden, weight))
        return CaseResult(gradient=gradient)

    return call


def _select_ours(inputs: Inputs) -> Call:
    count = max(1, len(inputs.logp_old) // 500)
    k = torch.tensor([count], dtype=torch.int32, device=inputs.mask.device)

    def call() -> CaseResult:
        top_k_mask(inputs.logp_old, k, candidates=inputs.mask)
        return CaseResult()

    return call


def _select_topk(inputs: Inputs) -> Call:
    count = max(1, len(inputs.logp_old) // 500)

    def call() -> CaseResult:
        values = torch.where(inputs.mask, inputs.logp_old, -torch.inf)
        torch.zeros_like(inputs.mask).scatter_(0, values.topk(count).indices, True)
        return CaseResult()

    return call


LOGITS: Mapping[str, Mapping[str, Build]] = {
    "forward": {
        "isentrope": _forward(_ours),
        "trl": _forward(_trl),
        "eager": _forward(_eager),
        "torch.compile": _forward(_compiled),
    },
    "step": {
        "isentrope": _fused(PPO),
        "trl": _step(_trl, _ppo_of),
        "eager": _step(_eager, _ppo_of),
        "torch.compile": _step(_compiled, _ppo_of),
    },
    "step_without_entropy": {"isentrope": _fused(PPO), "liger": _liger},
    "kl_cov": {
        "isentrope": _fused(KL_COV),
        "verl on trl": _step(_trl, _verl_kl_cov_of),
        "verl on torch.compile": _step(_compiled, _verl_kl_cov_of),
    },
}
"""Providers of each quantity on logits."""

SELECTION: Mapping[str, Build] = {"isentrope": _select_ours, "torch.topk": _select_topk}

LINEAR: Mapping[str, Mapping[str, Build]] = {
    "linear": {
        "isentrope": _linear(PPO),
        "verl": _linear_peer(_linear_verl),
        "trl": _linear_peer(_linear_trl),
        "liger": _linear_liger,
        "cce (no entropy)": _linear_peer(_linear_cce),
        "eager": _linear_peer(_linear_eager),
    },
    "linear_top_entropy": {
        "isentrope": _linear(TOP_ENTROPY),
        "verl": _linear_peer(_linear_verl),
        "trl": _linear_peer(_linear_trl),
    },
}
"""Providers of each quantity from hidden states. For a share of the tokens, peers must compute all of them."""
