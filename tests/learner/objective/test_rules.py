"""Every rule refuses what it is for and nothing near it; messages carry reason and remedy."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from batches import halves, objective_of, random_batch

from isentrope.errors import ConfigError
from isentrope.learner.config import LearnerConfig, StalenessConfig
from isentrope.learner.objective import presets
from isentrope.learner.objective.dimensions import DIMENSIONS, KL_TOKENS
from isentrope.learner.objective.needs import PROVIDED, Need, needs
from isentrope.learner.objective.rules import check, unfit
from isentrope.learner.objective.run import Opened, comparison, naming_suggestions, open_objective, refusals, warnings
from isentrope.learner.objective.run_facts import RunFacts, run_facts
from isentrope.learner.objective.schema import Kind
from isentrope.rollout.config import SamplingConfig

Case: TypeAlias = tuple[list[str], dict[str, object], dict[str, object], str]
"""Methods, own keys, facts of the run, and the key that is found wrong."""

ALL = frozenset(Need)
MANY = {"updates": 4, "provided": ALL}
FRESH = {**MANY, "max_lag": 0}
SMALL = {**FRESH, "tokens": 32 * 8 * 13}
HELD = [{"kind": "k3", "anchor": "ref", "coef": 0.1}]
OLD = [{"kind": "abs", "anchor": "old", "coef": 1.0, "tokens": "top_cov"}]


def refused(facts: RunFacts, *methods: str, **own: object) -> set[str]:
    return {finding.key for finding in check(objective_of(*methods, **own), facts).refusals}


def doubted(facts: RunFacts, *methods: str, **own: object) -> set[str]:
    return {finding.key for finding in check(objective_of(*methods, **own), facts).warnings}


PI = {"kind": "entropy_pi", "target": 0.5}

REFUSED: list[Case] = [
    (["kl_cov"], {}, {"updates": 1}, "kl.0"),
    (["kl_cov"], {}, {"updates": 4, "on_policy": True}, "kl.0"),
    (["kl_cov"], {"stats": "rollout"}, {"updates": 1, "on_policy": True}, "kl.0"),
    ([], {"kl": [{"kind": "k1", "coef": 1.0}]}, MANY, "kl.0"),
    (["dapo"], {"kl": OLD}, MANY, "clip"),
    ([], {"kl": [{"kind": "sequence_k2", "coef": 1.0}]}, MANY, "clip"),
    (["gspo", "top_entropy"], {}, MANY, "tokens.top_entropy"),
    (["gspo", "steer"], {}, MANY, "tokens.entropy_change"),
    (["gspo", "clip_cov"], {}, MANY, "tokens.band_cov"),
    (["gmpo", "top_entropy"], {}, MANY, "tokens.top_entropy"),
    (["ppo", "gspo"], {}, MANY, "advantage.baseline"),
    (["gspo", "dapo"], {}, MANY, "reduce"),
    (["gmpo"], {"reduce": "seq_sum"}, MANY, "reduce"),
    (["vespo"], {"ratio": {"level": "sequence"}, "reduce": "seq_sum"}, MANY, "ratio.level"),
    (["vespo", "tis"], {}, MANY, "correction.truncate"),
    (["luspo", "clip_b"], {"reduce": "seq_sum"}, MANY, "tokens.discriminator"),
    ([], {"control": [{**PI, "of": "tokens.top_entropy.keep", "effect": "raises"}]}, MANY, "control.entropy_pi"),
    (["top_entropy"], {"control": [{**PI, "of": "tokens.top_entropy.keep"}]}, MANY, "control.entropy_pi.effect"),
    (["top_entropy"], {"control": [{**PI, "of": "clip.dual"}]}, MANY, "control.entropy_pi.of"),
    (
        ["top_entropy"],
        {"control": [{**PI, "of": "tokens.top_entropy.keep", "initial": 0.2}]},
        MANY,
        "control.entropy_pi",
    ),
    ([], {"control": [{**PI, "of": "entropy.tokens", "effect": "raises"}]}, MANY, "control.entropy_pi.of"),
    ([], {"control": [{**PI, "of": "learning_rate", "effect": "lowers"}]}, MANY, "control.entropy_pi.low"),
    ([], {"control": [{**PI, "of": "entropy", "initial": 2.0}]}, MANY, "control.entropy_pi.initial"),
    (["prorl"], {"control": [{**PI, "of": "kl.ref", "effect": "lowers"}]}, MANY, "control.entropy_pi"),
    (["entrocraft"], {"advantage": {"scale": "group_std"}}, MANY, "advantage.scale"),
    (["gdpo"], {"advantage": {"scale": "group_std"}}, MANY, "advantage.scale"),
    (["dapo", "gdpo"], {}, MANY, "reward.scheme"),
    (["dapo", "opd"], {}, MANY, "reward.scheme"),
    (["entrocraft"], {"stats": "rollout"}, {**MANY, "on_policy": True}, "advantage.baseline"),
    (["cispo"], {"ratio": {"level": "sequence"}, "reduce": "seq_token_mean"}, MANY, "ratio.level"),
    (["cispo"], {"ratio": {"level": "none"}}, MANY, "clip"),
    (["cispo", "tis"], {"ratio": {"anchor": "rollout"}}, MANY, "correction.truncate"),
    (["dapo"], {"correction": "truncate_current"}, MANY, "correction.truncate_current"),
    (["m2po"], {"ratio": {"anchor": "interpolated"}}, MANY, "correction.second_moment"),
    (
        ["tis"],
        {"ratio": {"anchor": "interpolated"}, "correction": {"truncate": {"normalize": True}}},
        MANY,
        "correction.truncate",
    ),
    (["prorl_v2", "tis"], {}, MANY, "correction"),
    (["unlikely"], {"stats": "rollout"}, MANY, "reward.unlikeliness"),
    ([], {"stats": "rollout", "advantage": {"baseline": "token_optimal"}}, MANY, "advantage.baseline"),
    (["kl_cov"], {}, {**MANY, "max_lag": 1}, "clip"),
    (["gpg"], {}, {**MANY, "max_lag": 1}, "clip"),
    (["kl_cov"], {}, SMALL, "kl.0.tokens.share"),
    (["sent"], {}, {**SMALL, "tokens": 6000}, "kl.0.tokens.share"),
    (["clip_cov"], {}, SMALL, "tokens.band_cov.share"),
    (["w_reinforce"], {"advantage": {"scale": "group_std"}}, MANY, "advantage.scale"),
    (["unlikely", "w_reinforce"], {}, MANY, "reward.unlikeliness"),
    (["seed_grpo", "nsr"], {}, MANY, "modulation.semantic_entropy"),
    (["psr", "rloo"], {}, MANY, "filter"),
    (["psr", "nsr"], {}, MANY, "filter"),
    (["entropic", "skywork"], {}, MANY, "control"),
    (["skywork", "positive_weight"], {}, MANY, "control"),
    (["skywork"], {"entropy": {"coef": 0.1}}, MANY, "entropy"),
    ([], {"control": [{"kind": "positive_weight", "target": 0.3}]}, MANY, "control.positive_weight"),
    (["dapo"], {"filter": ["not_truncated"]}, MANY, "filter"),
    (["dapo"], {"reward": [{"kind": "stop_properly", "coef": 0.5}]}, MANY, "reward"),
    (["opo"], {}, {"updates": 1, "max_lag": 2}, "advantage.baseline"),
    (["opo"], {}, {"updates": 2, "max_lag": 0}, "advantage.baseline"),
    (["seed_grpo", "ppo"], {}, MANY, "modulation.semantic_entropy"),
    ([], {"advantage": {"baseline": "gae"}}, MANY, "critic"),
    (["ppo", "rloo"], {}, MANY, "critic"),
    (["grpo"], {"ratio": {"sampling_mask": "engine"}}, {"updates": 4, "provided": frozenset()}, "ratio.sampling_mask"),
    (["grpo"], {}, {"updates": 4, "truncates": True}, "ratio.sampling_mask"),
    (["minirl"], {"ratio": {"routing": "learner"}}, {"updates": 4}, "ratio.routing"),
    (["minirl"], {"ratio": {"routing": "engine"}}, {"updates": 4}, "ratio.routing"),
    ([], {"reward": [{"kind": "kl_penalty", "coef": 0.1}], "kl": HELD}, MANY, "reward.kl_penalty"),
    (["top_entropy"], {"stats": "rollout"}, MANY, "stats"),
    (["tis"], {"stats": "rollout"}, MANY, "correction"),
    (["grpo"], {}, {"group_size": 1}, "advantage.baseline"),
    (["pass_at_k"], {}, {"whole_groups": False}, "advantage.baseline"),
    (["dapo"], {"advantage": {"baseline": "none", "scale": "none"}}, {**MANY, "group_size": 1}, "filter"),
    (["prorl"], {}, {**MANY, "evaluates": False}, "reset"),
    (["prorl"], {"kl": []}, MANY, "reset"),
    (["luffy"], {}, {"updates": 4, "provided": frozenset()}, "aux.shaped_demonstration"),
    (["bcpg_nsa"], {}, {"updates": 4, "provided": frozenset()}, "tokens.step_labels"),
    (["remax"], {}, {"updates": 4, "provided": frozenset()}, "advantage.baseline"),
]


@pytest.mark.parametrize(("methods", "own", "facts", "key"), REFUSED)
def test_refused(methods: list[str], own: dict[str, object], facts: dict[str, object], key: str) -> None:
    assert key in refused(RunFacts(**facts), *methods, **own)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("methods", "own", "facts"),
    [
        (["dapo", "kl_cov"], {}, FRESH),
        (["kl_cov"], {"stats": "rollout"}, {"updates": 1, "max_lag": 0}),
        (["kl_cov"], {}, {"updates": 1, "epochs": 2, "max_lag": 0}),
        (["kl_cov", "tis"], {}, MANY),
        (["m2po"], {}, MANY),
        (["dapo"], {"correction": ["second_moment", "truncate"]}, MANY),
        (["tis"], {"correction": [{"kind": "reject", "weigh": False}]}, MANY),
        (["kl_cov"], {}, {**FRESH, "tokens": 5000}),
        (["kl_cov"], {"stats": "microbatch"}, SMALL),
        (["dapo", "top_entropy"], {}, MANY),
        (["dapo", "steer", "tis"], {}, MANY),
        (["rloo", "dapo", "icepop", "positive_weight"], {}, MANY),
        (["dr_grpo", "decoupled", "deepseek_v32"], {}, MANY),
        (["decoupled"], {"ratio": {"anchor": "interpolated"}, "stats": "rollout"}, MANY),
        (["opo"], {}, {"on_policy": True}),
        (["opo"], {}, {"updates": 1, "max_lag": 0}),
        (["minirl"], {}, MANY),
        (["dapo", "gspo"], {}, MANY),
        (["dapo", "luspo"], {}, MANY),
        (["dapo", "vespo"], {}, MANY),
        (["dapo", "ce_gppo", "clip_b"], {}, MANY),
        (["entrocraft"], {}, MANY),
        (["remax"], {}, {"max_lag": 0}),
        (["bcpg_nsa"], {}, {"max_lag": 0}),
        (["pi_bonus"], {}, MANY),
        (["dapo"], {"control": [{**PI, "of": "clip.high", "initial": 0.28, "low": 0.2}]}, MANY),
        (["prorl"], {"control": [{**PI, "of": "kl.ref", "effect": "lowers", "low": 0.0}]}, MANY),
        ([], {"control": [{**PI, "of": "learning_rate", "effect": "lowers", "initial": 1.0, "low": 0.1}]}, MANY),
        (["dapo"], {"kl": HELD}, MANY),
        (["grpo"], {"kl": [{"kind": "k1", "coef": 1.0, "importance": "old"}]}, MANY),
        (["entropic"], {"kl": HELD, "control": [{"kind": "adaptive_kl", "target": 0.1}]}, MANY),
    ],
)
def test_accepted(methods: list[str], own: dict[str, object], facts: dict[str, object]) -> None:
    assert refused(RunFacts(**facts), *methods, **own) == set()  # type: ignore[arg-type]


DOUBTED: list[Case] = [
    (["top_entropy", "steer"], {}, MANY, "tokens"),
    (["clip_cov"], {"advantage": {"scale": "none"}}, MANY, "tokens.band_cov"),
    (["kl_cov"], {"stats": "microbatch"}, MANY, "stats"),
    (["dapo", "w_reinforce"], {}, MANY, "filter"),
    (["unlikely"], {}, {"updates": 1, "provided": ALL}, "reward.unlikeliness"),
    (["seed_grpo"], {"advantage": {"scale": "whiten"}}, MANY, "advantage.scale"),
    (["vapo"], {}, MANY, "aux.positive_nll"),
    (["grpo"], {}, {"updates": 1}, "clip"),
    (["gdpo"], {"filter": ["mixed_groups"]}, MANY, "filter.mixed_groups"),
    (["prorl"], {}, MANY, "reset"),
    (["clip_cov"], {}, MANY, "clip.low"),
    (["kl_cov"], {}, {**FRESH, "tokens": 15000}, "kl.0.tokens.share"),
]


@pytest.mark.parametrize(("methods", "own", "facts", "key"), DOUBTED)
def test_doubted(methods: list[str], own: dict[str, object], facts: dict[str, object], key: str) -> None:
    assert key in doubted(RunFacts(**facts), *methods, **own)  # type: ignore[arg-type]


def test_every_finding_says_why_and_what_to_do() -> None:
    facts = RunFacts(updates=1, group_size=1, evaluates=False, provided=frozenset())
    for methods in (
        ["kl_cov"],
        ["gspo", "top_entropy"],
        ["psr", "nsr", "rloo"],
        ["vapo"],
        ["prorl"],
        ["entropic", "skywork"],
    ):
        verdict = check(objective_of(*methods), facts)
        assert verdict.refusals
        for finding in (*verdict.refusals, *verdict.warnings):
            assert finding.key and finding.reason and finding.remedy


def test_going_on_policy_is_inert_for_a_divergence_to_the_old_policy_alone() -> None:
    facts = RunFacts(updates=4, on_policy=True)
    assert "one update per batch" in unfit(objective_of("kl_cov"), facts)
    assert unfit(objective_of("dapo"), facts) == ""


@pytest.mark.parametrize(("method", "reason"), [("gpg", "up to 2 batches old"), ("opo", "on-policy training only")])
def test_going_async_is_wrong_for_what_bears_no_older_tokens(method: str, reason: str) -> None:
    learner = LearnerConfig(method=method, mode="on_policy", staleness=StalenessConfig(max_lag=2))
    fits, facts = (run_facts(learner, SamplingConfig(), mode=mode, evaluates=True) for mode in ("on_policy", "async"))
    assert unfit(objective_of(method), fits) == "" and reason in unfit(objective_of(method), facts)


def test_suggestions_fill_only_what_the_run_left_unset() -> None:
    learner = LearnerConfig(method="kl_cov", updates_per_batch=3, staleness=StalenessConfig(max_lag=0))
    opened = open_objective(learner, SamplingConfig(), run_folder=Path("/"), evaluates=True)
    assert opened.learner.updates_per_batch == 3 and opened.suggested == () and comparison(opened.suggested) == []
    free = open_objective(LearnerConfig(method=["dapo", "opo"]), SamplingConfig(), run_folder=Path("/"), evaluates=True)
    assert free.sampling.group_size == 16 and free.learner.staleness.max_lag == 0
    assert "max_lag = 0, suggested by opo" in map(str, free.suggested)
    (line,) = comparison(free.suggested)
    assert "set group_size and max_lag in both run files" in line
    assert free.facts.max_lag == 0 and refusals(free) == []


@pytest.mark.parametrize("method", presets.method_names())
def test_a_preset_needs_correctness_or_does_the_same_without_it(method: str) -> None:
    objective, batch = objective_of(method), random_batch()
    graded = check(objective, RunFacts(**{**FRESH, "provided": ALL - {Need.CORRECTNESS}}))  # type: ignore[arg-type]
    about = [finding for finding in graded.refusals if "graded" in finding.reason]
    if Need.CORRECTNESS in needs(objective):
        (finding,) = about
        assert finding.key == needs(objective)[Need.CORRECTNESS] and "data.correct" in finding.remedy
    else:
        assert about == []
        without = objective.prepare(dataclasses.replace(batch, correct=None), halves(batch))
        assert torch.equal(without.advantage, objective.prepare(batch, halves(batch)).advantage)


def test_an_optional_tensor_is_needed_once_a_key_names_it() -> None:
    assert Need.CORRECTNESS not in needs(objective_of("kl_cov"))
    by_correct = [{"kind": "mixed_groups", "by": "correct"}]
    assert needs(objective_of("kl_cov", filter=by_correct))[Need.CORRECTNESS] == "filter.mixed_groups"


def test_whatever_pays_for_correctness_alone_says_so() -> None:
    def notes(method: str, **own: object) -> str:
        learner = LearnerConfig(method=method, objective=own)
        return " ".join(warnings(open_objective(learner, SamplingConfig(), run_folder=Path("/"), evaluates=True)))

    assert "pays 1 for a correct response and -1 for another, whatever the reward functions gave" in notes("dapo")
    assert "pays 2 for a correct response" in notes("grpo", reward=[{"kind": "scheme", "right": 2.0}])
    assert "whatever the reward functions gave" not in notes("grpo") + notes("kl_cov")
    assert 'set by = "correct"' in notes("dapo", filter=[{"kind": "mixed_groups", "by": "reward"}])
    assert 'set by = "correct"' not in notes("dapo")


def test_the_line_that_keeps_partial_credit_of_a_preset_does_it() -> None:
    def opened(**own: object) -> Opened:
        learner = LearnerConfig(method="dapo", objective=own)
        return open_objective(learner, SamplingConfig(), run_folder=Path("/"), evaluates=True)

    before = opened()
    (note,) = [line for line in warnings(before) if "partial credit" in line]
    line = note.partition("set learner.objective.")[2].removesuffix(" to keep that")
    after = opened(**tomllib.loads(line)).objective
    kept = [stage for stage in before.objective.reward if stage.kind.name != "scheme"]
    assert kept and [(each.kind, each.params) for each in after.reward] == [(each.kind, each.params) for each in kept]


def test_a_clip_that_never_acts_on_policy_is_not_told_to_take_more_updates_alone() -> None:
    learner = LearnerConfig(method="rloo", mode="on_policy", objective={"clip": {"high": 0.3}})
    opened = open_objective(learner, SamplingConfig(), run_folder=Path("/"), evaluates=True)
    (line,) = [line for line in warnings(opened) if "never acts" in line]
    assert 'set clip = "none", or mode = "async"' in line


def test_refusals_are_errors_that_name_the_preset() -> None:
    learner, lacks = LearnerConfig(method="luffy"), {Need.DEMONSTRATIONS}
    (error,) = refusals(open_objective(learner, SamplingConfig(), run_folder=Path("/"), evaluates=True, lacks=lacks))
    assert "demonstrations" in error.what and error.where == "learner.objective.aux.shaped_demonstration (set by luffy)"


WALKS: dict[str, Any] = {"method": ["dapo", "kl_cov"], "updates_per_batch": 4}
"""Two methods for models a ten-thousand times the size of one that writes 13 tokens."""


def test_a_large_models_method_on_a_small_task_is_warned_of_by_name() -> None:
    """Its share of 2e-4 is a token for four updates; and no older token is trained without its clip."""
    sampling = SamplingConfig(max_new_tokens=13)
    opened = open_objective(LearnerConfig(**WALKS), sampling, run_folder=Path("/"), evaluates=True)
    assert refusals(opened) == [] and opened.learner.staleness.max_lag == 0
    (line,) = (line for line in warnings(opened) if "share" in line)
    assert "kl.0.tokens.share (set by kl_cov)" in line and "0.0002 of the 6656 tokens" in line
    aged = LearnerConfig(**WALKS, staleness=StalenessConfig(max_lag=2))
    (error,) = refusals(open_objective(aged, sampling, run_folder=Path("/"), evaluates=True))
    assert "up to 2 batches old" in error.what and error.where == "learner.objective.clip (set by kl_cov)"
    assert error.exit_code == 64 and "max_lag = 0" in error.fix


def test_an_error_names_the_suggestions_it_comes_from() -> None:
    learner = LearnerConfig(method=["opo", "clip_cov"])
    opened = open_objective(learner, SamplingConfig(), run_folder=Path("/"), evaluates=True)
    (error,) = refusals(opened)
    assert "updates_per_batch = 8 is suggested by clip_cov" in error.what
    other = naming_suggestions(ConfigError("wrong", where="run.toml", fix="mend it"), opened.suggested)
    assert other.what == "wrong"


@pytest.mark.parametrize("method", presets.method_names())
def test_no_method_is_refused_as_it_is_but_for_what_it_needs(method: str) -> None:
    learner = LearnerConfig(method=method, eval_every=20)
    opened = open_objective(learner, SamplingConfig(), run_folder=Path("/"), evaluates=True)
    missing = [need for need in needs(opened.objective) if need not in PROVIDED]
    assert len(opened.verdict.refusals) == len(missing)


def test_tokens_that_are_masked_for_their_age_are_not_trained() -> None:
    learner = LearnerConfig(method="gpg", staleness=StalenessConfig(max_lag=2, token_max_lag=0))
    assert run_facts(learner, SamplingConfig(), mode="async", evaluates=True).max_lag == 0


def test_doubts_about_what_nobody_set_are_not_told() -> None:
    opened = open_objective(LearnerConfig(method="rloo"), SamplingConfig(), run_folder=Path("/"), evaluates=True)
    assert warnings(opened) == []
    opened = open_objective(
        LearnerConfig(method="rloo", objective={"clip": {"high": 0.3}}),
        SamplingConfig(),
        run_folder=Path("/"),
        evaluates=True,
    )
    assert any("never acts" in line for line in warnings(opened))


def test_on_policy_a_batch_is_one_update_of_no_lag_whatever_is_configured() -> None:
    learner = LearnerConfig(updates_per_batch=4, epochs=2, staleness=StalenessConfig(max_lag=3))
    facts = run_facts(learner, SamplingConfig(), mode="on_policy", evaluates=True)
    assert (facts.updates, facts.epochs, facts.max_lag, facts.single) == (1, 1, 0, True)
    back = run_facts(learner.in_mode("on_policy"), SamplingConfig(), mode="async", evaluates=True)
    kept = run_facts(learner, SamplingConfig(), mode="async", evaluates=True)
    assert (kept.updates, kept.epochs, kept.max_lag, kept.single) == (4, 2, 3, False)
    assert not back.on_policy


@pytest.fixture
def other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of the dimension table is called otherwise, but for those that controllers point at by name."""

    def renamed(kinds: Mapping[str, Kind]) -> dict[str, Kind]:
        pointed_at = {"positive_weight", "high_prob_push"}
        return {
            key: kind if key in pointed_at else dataclasses.replace(kind, name=f"other_{kind.name}")
            for key, kind in kinds.items()
        }

    table = {path: dataclasses.replace(each, kinds=renamed(each.kinds)) for path, each in DIMENSIONS.items()}
    monkeypatch.setattr(presets, "DIMENSIONS", table)
    monkeypatch.setattr(presets, "KL_TOKENS", renamed(KL_TOKENS))


@pytest.mark.usefixtures("other_names")
@pytest.mark.parametrize(("methods", "own", "facts", "key"), REFUSED + DOUBTED)
def test_rules_hold_under_other_names(
    methods: list[str], own: dict[str, object], facts: dict[str, object], key: str
) -> None:
    verdict = check(objective_of(*methods, **own), RunFacts(**facts))  # type: ignore[arg-type]
    found = {finding.key.replace("other_", "") for finding in (*verdict.refusals, *verdict.warnings)}
    assert key in found


@pytest.mark.usefixtures("other_names")
def test_the_accepted_are_accepted_under_other_names() -> None:
    for methods in (["dapo", "kl_cov"], ["dapo", "steer", "tis"], ["dr_grpo", "decoupled", "deepseek_v32"]):
        assert refused(RunFacts(updates=4, max_lag=0, provided=ALL), *methods) == set()


@pytest.mark.parametrize(("method", "unset"), [("grpo", 2), ("pass_at_k", 8)])
def test_the_least_group_is_the_whole_one_where_the_baseline_needs_it_and_the_key_is_unset(
    tmp_path: Path, method: str, unset: int
) -> None:
    def opened(**sampling: int) -> tuple[int, bool]:
        learner = LearnerConfig(method=method)
        found = open_objective(learner, SamplingConfig.model_validate(sampling), run_folder=tmp_path, evaluates=False)
        return found.sampling.min_group, any("may be missing" in str(each) for each in refusals(found))

    assert opened(group_size=8) == (unset, False)
    assert opened(group_size=8, min_group=3) == (3, method == "pass_at_k")
