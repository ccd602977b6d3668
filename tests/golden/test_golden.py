"""Every stage against the numbers of the implementations that published it.

`GOLDEN_DIR` points the same tests at another set of the same layout.
"""

import golden_credit as credit
import golden_losses as losses
import golden_scope as scope
import golden_variants as variants
import pytest
from golden import OWN, Adapter, Case, compare, every_case, families

ADAPTERS: dict[str, Adapter] = {
    "adv_other": credit.adv_other,
    "adv_verl": credit.adv_verl,
    "agg_loss": credit.agg_loss,
    "areal_decoupled": losses.areal_decoupled,
    "controllers": credit.controllers,
    "derived_losses": variants.derived_losses,
    "edge_cases": losses.edge_cases,
    "kl_estimators": losses.kl_estimators,
    "logits": losses.logits,
    "nemo_clipped_pg": losses.nemo_clipped_pg,
    "policy_loss_cov": variants.policy_loss_cov,
    "policy_loss_other": variants.policy_loss_other,
    "policy_loss_verl": losses.policy_loss_verl,
    "reward_shaping": credit.reward_shaping,
    "rollout_correction": losses.rollout_correction,
    "steer": losses.steer,
    "trl_grpo": variants.trl_grpo,
}
COMPARED = [case for case in every_case() if scope.rule_for(case) is None]


@pytest.mark.parametrize("case", COMPARED, ids=lambda case: case.id)
def test_stage_gives_what_the_reference_gave(case: Case) -> None:
    computed = ADAPTERS[case.family](case)
    missing = set(case.outputs) - set(computed) - scope.UNCOMPARED
    assert not missing, f"{case.id}: {sorted(missing)} not computed"
    assert computed
    compare(case, computed, scope.tolerance(case), scope.compared_rows(case))


def test_every_family_has_an_adapter() -> None:
    assert families() == sorted(ADAPTERS)


def test_few_cases_are_excluded() -> None:
    cases = list(every_case())
    rules = [scope.rule_for(case) for case in cases]
    in_scope = [rule for rule in rules if rule not in scope.OUT_OF_SCOPE]
    excluded = [rule for rule in in_scope if rule is not None]
    assert len(excluded) <= 0.05 * len(in_scope)
    assert len(COMPARED) + len(excluded) == len(in_scope)


def test_every_rule_applies_to_something() -> None:
    used = {id(scope.rule_for(case)) for case in every_case(OWN)}
    assert all(id(rule) in used for rule in (*scope.OUT_OF_SCOPE, *scope.EXCLUDED))
