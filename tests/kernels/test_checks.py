"""Every bad input is one typed error that names the argument, what was given and what is allowed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from isentrope.errors import ArgumentError
from isentrope.kernels import checks, select
from isentrope.kernels.fused import fused_policy_loss, logp_entropy
from isentrope.kernels.linear import fused_linear_policy_loss
from isentrope.kernels.policy import LossRules, TokenInputs

N, V = 3, 5
LOGITS, IDS, NUMBERS = torch.randn(N, V), torch.tensor([0, 1, 2]), torch.randn(N)


TOKENS = TokenInputs.averaged(NUMBERS, NUMBERS)


def tokens(**changes: Any) -> TokenInputs:
    return replace(TOKENS, **changes)


def fused(**changes: Any) -> object:
    arguments = {"logits": LOGITS, "targets": IDS, "tokens": TOKENS, "rules": LossRules()}
    return fused_policy_loss(**(arguments | changes))  # type: ignore[arg-type]


def linear(**changes: Any) -> object:
    arguments: dict[str, object] = {"hidden": torch.randn(N, 2), "weight": torch.randn(V, 2), "targets": IDS}
    arguments |= {"tokens": TOKENS, "rules": LossRules()}
    return fused_linear_policy_loss(**(arguments | changes))  # type: ignore[arg-type]


CASES: dict[str, tuple[Callable[[], object], str]] = {
    "target above the vocabulary": (
        lambda: logp_entropy(LOGITS, torch.tensor([0, 1, V])), "targets: 5 .* 0 to 4 are allowed"),
    "target below 0": (lambda: fused(targets=torch.tensor([0, -1, 0])), "targets: -1"),
    "target type": (lambda: logp_entropy(LOGITS, IDS.int()), "targets: torch.int32, torch.int64"),
    "target shape": (lambda: logp_entropy(LOGITS, IDS[:2]), r"targets: shape \(2,\), \(3,\)"),
    "logits of three dimensions": (lambda: logp_entropy(LOGITS[None], IDS), r"logits: shape \(1, 3, 5\)"),
    "float64 logits": (lambda: logp_entropy(LOGITS.double(), IDS), "logits: torch.float64, one of"),
    "transposed logits": (lambda: logp_entropy(torch.randn(V, N).T, IDS), "logits: stride 3"),
    "overlapping rows": (lambda: logp_entropy(LOGITS[:1].expand(N, V), IDS), "logits: rows overlap"),
    "leaf in place": (lambda: logp_entropy(LOGITS.clone().requires_grad_(), IDS), "logits: a leaf"),
    "empty batch": (lambda: logp_entropy(LOGITS[:0], IDS[:0]), "logits: no tokens"),
    "empty vocabulary": (lambda: logp_entropy(LOGITS[:, :0], IDS), "logits: an empty vocabulary"),
    "other device": (lambda: fused(tokens=tokens(advantage=NUMBERS.to("meta"))), "advantage: on meta, cpu is needed"),
    "advantage shape": (lambda: fused(tokens=tokens(advantage=NUMBERS[:2])), "advantage: shape"),
    "old log-prob shape": (lambda: fused(tokens=tokens(logp_old=NUMBERS[:2])), "logp_old: shape"),
    "mask type": (lambda: fused(tokens=tokens(mask=NUMBERS)), "mask: torch.float32, torch.bool"),
    "lag type": (lambda: fused(tokens=tokens(lag=NUMBERS)), "lag: torch.float32"),
    "no random bits": (lambda: fused(rules=LossRules(select="band_cov", share=0.1)), "random: missing"),
    "temperature 0": (lambda: logp_entropy(LOGITS, IDS, 0.0), "temperature: 0.0"),
    "temperature shape": (lambda: logp_entropy(LOGITS, IDS, NUMBERS[:2]), "temperature: shape"),
    "negative softcap": (lambda: fused(softcap=-1.0), "softcap: -1.0"),
    "two normalizers": (lambda: fused(tokens=tokens(normalizer=NUMBERS)), "normalizer: "),
    "one clip bound": (lambda: LossRules(clip_low=None), "clip_low None and clip_high 0.2"),
    "dual clip below 1": (lambda: LossRules(clip_dual=0.5), "clip_dual 0.5"),
    "share 0": (lambda: LossRules(select="top_cov"), "share 0.0"),
    "hidden against weight": (lambda: linear(weight=torch.randn(V, 3)), r"hidden \(3, 2\) and weight \(5, 3\)"),
    "mixed types": (lambda: linear(weight=torch.randn(V, 2).half()), "hidden torch.float32 and weight torch.float16"),
    "chunk 0": (lambda: linear(chunk=0), "chunk: 0"),
    "target of a linear head": (lambda: linear(targets=IDS + 3), "targets: 5"),
    "negative k": (lambda: select.top_k_mask(NUMBERS, -1), "k: -1"),
    "integer values": (lambda: select.top_k_mask(IDS, 1), "values: torch.int64"),
    "candidates shape": (lambda: select.top_k_mask(NUMBERS, 1, candidates=NUMBERS[:2] > 0), "candidates: shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_clear_error(name: str) -> None:
    call, message = CASES[name]
    with pytest.raises(ArgumentError, match=message):
        call()


def test_tensors_off_the_gpu_are_refused_where_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "INTERPRETED", False)
    with pytest.raises(ArgumentError, match="on cpu: a CUDA device is needed"):
        logp_entropy(LOGITS, IDS)
