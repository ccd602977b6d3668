"""The kernels as registered operators with fake versions, so that torch.compile traces through them without a break.

Nothing is computed here. Statistics travel as one [4, M] tensor, see `stats.Stats`.
"""

from collections.abc import Sequence

import torch

from isentrope.kernels import fused_row, gradient, stats
from isentrope.kernels.call import action_of
from isentrope.kernels.checks import check_targets
from isentrope.kernels.policy import LossRules, TokenInputs
from isentrope.kernels.row_list import compact


@torch.library.custom_op("isentrope::row_stats", mutates_args=())
def row_stats(
    logits: torch.Tensor, targets: torch.Tensor, inverse_temperature: torch.Tensor, softcap: float, active: torch.Tensor
) -> torch.Tensor:
    """Run `stats.row_stats` on the rows in `active` [M] bool; return [4, M] float32."""
    check_targets(targets, logits.shape[1])
    return stats.row_stats(logits, targets, inverse_temperature, softcap, compact(active))


@row_stats.register_fake
def _fake_row_stats(
    logits: torch.Tensor, targets: torch.Tensor, inverse_temperature: torch.Tensor, softcap: float, active: torch.Tensor
) -> torch.Tensor:
    return torch.empty(4, logits.shape[0], dtype=torch.float32, device=logits.device)


@torch.library.custom_op("isentrope::row_moments", mutates_args=())
def row_moments(
    logits: torch.Tensor, targets: torch.Tensor, inverse_temperature: torch.Tensor, softcap: float, active: torch.Tensor
) -> torch.Tensor:
    """Run `stats.row_moments` on the rows in `active` [M] bool; return [4, M] float32."""
    check_targets(targets, logits.shape[1])
    return stats.row_moments(logits, targets, inverse_temperature, softcap, compact(active))


row_moments.register_fake(_fake_row_stats)


@torch.library.custom_op("isentrope::write_gradient", mutates_args=("out",))
def write_gradient(
    logits: torch.Tensor,
    targets: torch.Tensor,
    statistics: torch.Tensor,
    by_logp: torch.Tensor,
    by_entropy: torch.Tensor,
    upstream: torch.Tensor,
    inverse_temperature: torch.Tensor,
    softcap: float,
    out: torch.Tensor,
) -> None:
    """Run `gradient.write_gradient`; `out` may be `logits`."""
    gradient.write_gradient(
        logits, targets, statistics, by_logp, by_entropy, upstream, inverse_temperature, softcap, out
    )


def fuse_rows(
    logits: torch.Tensor,
    targets: torch.Tensor,
    tokens: TokenInputs,
    rules: LossRules,
    inverse_temperature: torch.Tensor,
    softcap: float,
    out: torch.Tensor,
) -> torch.Tensor:
    """Run `fused_row.fuse_rows` as an operator; return [3, M] float32: loss, logp and entropy.

    The gradient goes to `out`, which may be `logits`. An operator takes tensors and numbers only, so the records are
    taken apart here, and nowhere else.
    """
    result: torch.Tensor = _fuse_rows(
        logits, targets, tokens.advantage, tokens.logp_old, tokens.weight, tokens.mask, tokens.selected,
        tokens.normalizer, rules.scalars(), action_of(tokens, rules), inverse_temperature, softcap, out,
    )  # fmt: skip
    return result


@torch.library.custom_op("isentrope::fuse_rows", mutates_args=("out",))
def _fuse_rows(
    logits: torch.Tensor,
    targets: torch.Tensor,
    advantage: torch.Tensor,
    logp_old: torch.Tensor,
    weight: torch.Tensor,
    mask: torch.Tensor,
    selected: torch.Tensor | None,
    normalizer: torch.Tensor,
    rules: Sequence[float],
    action: int,
    inverse_temperature: torch.Tensor,
    softcap: float,
    out: torch.Tensor,
) -> torch.Tensor:
    check_targets(targets, logits.shape[1])
    tokens = TokenInputs(
        advantage=advantage, logp_old=logp_old, mask=mask, weight=weight, normalizer=normalizer, selected=selected
    )
    low, high, dual, kl_coef, entropy_coef, clamp = rules
    scalars = (low, high, dual, kl_coef, entropy_coef, clamp)
    return fused_row.fuse_rows(logits, targets, tokens, scalars, action, inverse_temperature, softcap, out)


@_fuse_rows.register_fake
def _fake_fuse_rows(
    logits: torch.Tensor,
    targets: torch.Tensor,
    advantage: torch.Tensor,
    logp_old: torch.Tensor,
    weight: torch.Tensor,
    mask: torch.Tensor,
    selected: torch.Tensor | None,
    normalizer: torch.Tensor,
    rules: Sequence[float],
    action: int,
    inverse_temperature: torch.Tensor,
    softcap: float,
    out: torch.Tensor,
) -> torch.Tensor:
    return torch.empty(3, logits.shape[0], dtype=torch.float32, device=logits.device)


@torch.library.custom_op("isentrope::scale_gradient", mutates_args=("gradient",))
def scale_gradient(gradient: torch.Tensor, upstream: torch.Tensor) -> None:
    """Run `fused_row.scale_gradient`."""
    fused_row.scale_gradient(gradient, upstream)
