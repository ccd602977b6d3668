"""Which objectives may run fused follows from their dimensions; where one does, kernels give the generic result."""

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from batches import halves, objective_of, random_batch, without_demonstrations

from isentrope.kernels import plain
from isentrope.kernels.fused import fused_policy_loss
from isentrope.learner.objective import presets
from isentrope.learner.objective.dimensions import DIMENSIONS, KL_TOKENS
from isentrope.learner.objective.kernel_rules import rules_of, token_inputs
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import method_names
from isentrope.learner.objective.schema import Kind

METHODS = method_names()
FUSED = [method for method in METHODS if rules_of(objective_of(method)) is not None]
VOCABULARY = 11


def test_the_plain_methods_and_those_of_the_entropy_survey_run_fused() -> None:
    assert {"dapo", "dr_grpo", "kl_cov", "clip_cov", "top_entropy"} <= set(FUSED)


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("gspo", {}),
        ("sapo", {}),
        ("dapo", {"stats": "microbatch"}),
        ("dapo", {"kl": [{"kind": "k3", "anchor": "ref", "coef": 0.1}]}),
        ("dapo", {"entropy": {"coef": 0.1}, "reduce": "seq_token_mean"}),
        ("dapo", {"entropy": {"coef": 0.1, "tokens": "selected"}}),
    ],
)
def test_what_looks_beyond_a_token_takes_the_generic_path(method: str, own: dict[str, object]) -> None:
    assert rules_of(objective_of(method, **own)) is None


@pytest.mark.parametrize("method", METHODS)
def test_a_rename_of_kinds_does_not_switch_the_fused_path_off(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rules_of(objective_of(method))

    def renamed(kinds: Mapping[str, Kind]) -> dict[str, Kind]:
        return {key: dataclasses.replace(kind, name=f"other_{kind.name}") for key, kind in kinds.items()}

    table = {path: dataclasses.replace(each, kinds=renamed(each.kinds)) for path, each in DIMENSIONS.items()}
    monkeypatch.setattr(presets, "DIMENSIONS", table)
    monkeypatch.setattr(presets, "KL_TOKENS", renamed(KL_TOKENS))
    assert objective_of(method).clip.kind.name.startswith("other_")
    assert rules_of(objective_of(method)) == expected


def compare(objective: Objective) -> None:
    rules = rules_of(objective)
    assert rules is not None
    batch = without_demonstrations(random_batch(prompts=3))
    torch.manual_seed(0)
    batch = dataclasses.replace(batch, reward=torch.rand(len(batch.reward), dtype=torch.float64))
    logits = torch.randn(*batch.mask.shape, VOCABULARY, dtype=torch.float64)
    targets = torch.randint(VOCABULARY, batch.mask.shape)
    now, _ = plain.logp_entropy(logits.flatten(0, 1), targets.flatten())
    old = (now.view_as(batch.logp_rollout) + 0.2 * torch.randn(batch.mask.shape, dtype=torch.float64)) * batch.valid
    statistics = batch.statistics._replace(logp=old)
    prepared = objective.prepare(dataclasses.replace(batch, statistics=statistics, logp_rollout=old), halves(batch))
    generic, fused = logits.clone().requires_grad_(), logits.float().requires_grad_()
    losses = torch.zeros(2)
    for update, rows in enumerate(halves(batch)):
        logp, entropy = plain.logp_entropy(generic[rows].flatten(0, 1), targets[rows].flatten())
        shape = (len(rows), -1)
        part = objective.token_loss(prepared, update, rows, logp.view(shape), entropy.view(shape))
        part.loss.backward()
        tokens = token_inputs(objective, prepared, update, rows).changed(torch.flatten)
        found = fused_policy_loss(fused[rows].flatten(0, 1), targets[rows].flatten(), tokens, rules)
        found.loss.backward()
        losses += torch.stack([part.loss.detach().float(), found.loss.detach()])
    assert generic.grad is not None and fused.grad is not None and generic.grad.any()
    scale = float(generic.grad.abs().max())
    assert float((fused.grad - generic.grad).abs().max()) <= 1e-5 * scale
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", FUSED)
def test_fused_is_generic_for_every_preset_that_may_run_fused(method: str) -> None:
    compare(objective_of(method))


@pytest.mark.slow
def test_fused_is_generic_with_bonus_and_dual_clip() -> None:
    compare(objective_of("dapo", entropy={"coef": 0.02}, clip={"kind": "ppo", "low": 0.1, "high": 0.2, "dual": 1.5}))
