"""Every method that a run can supply trains: two batches through the real statistics, stages, updates and metrics."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_batch import LONGEST, VOCABULARY, make_toy_rows
from toy_log import written_row

from isentrope.errors import InternalError, RewardError
from isentrope.learner.config import LearnerConfig
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.objective.needs import PROVIDED, Need, needs
from isentrope.learner.objective.objective import ControllerStates, Objective
from isentrope.learner.objective.presets import build, load_objective, method_names
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.critic import CriticEngine
from isentrope.learner.training.deepspeed_engine import TrainingEngine
from isentrope.learner.training.metrics import scalars
from isentrope.learner.training.model import Policy, load_policy
from isentrope.learner.training.reference_policy import ReferencePolicy
from isentrope.learner.training.trainer import Schedule, Trainer

CPU = torch.device("cpu")
RIGHT = np.arange(16) % 5 == 1
"""One right answer in each of three groups, none in the fourth."""
RAGGED = [
    replace(
        ragged,
        answer=np.arange(16) % 3,
        reward=RIGHT.astype(np.float64),
        correct=RIGHT,
        greedy_reward=np.repeat([0.0, 1.0, 0.0, 0.5], 4),
        step_correct=np.arange(len(ragged.tokens)) % 2 == 0,
        parts=np.stack([RIGHT, np.arange(16) % 2], axis=1).astype(np.float64),
        part_weights=(1.0, 0.5),
    )
    for ragged in (make_toy_rows(groups=4, group_size=4, seed=number, number=number) for number in range(2))
]


def rows_of(objective: Objective) -> list[RaggedBatch]:
    """The batches, with the last response of each group as a demonstration where the method has some."""
    if Need.DEMONSTRATIONS not in needs(objective):
        return RAGGED
    return [replace(each, demonstration=np.repeat(each.index == 3, each.length)) for each in RAGGED]


def objective_of(name: str) -> Objective:
    """The objective of a preset, without the batches that train the critic alone."""
    objective = build(load_objective(name, {}, Path()), Path(), max_new_tokens=LONGEST)
    params = dict(objective.critic.params)
    return replace(objective, critic=replace(objective.critic, params=params | {"warmup_batches": 0} if params else {}))


RUNNABLE = [name for name in method_names() if set(needs(objective_of(name))) <= PROVIDED]


@pytest.fixture(scope="module")
def engine(alone: Collectives, toy_model: Path) -> Iterator[TrainingEngine]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LOCAL_RANK", "0")  # as a launcher sets it
        yield TrainingEngine(policy_of(toy_model), 1.0, LearnerConfig(zero_stage=0, learning_rate=1e-3), CPU)


@pytest.fixture(scope="module")
def critic(engine: TrainingEngine, toy_model: Path) -> CriticEngine:
    return CriticEngine(policy_of(toy_model), LearnerConfig(zero_stage=0, learning_rate=1e-3), CPU)


def policy_of(folder: Path) -> Policy:
    return load_policy(str(folder), dtype=torch.float32, device=CPU, gradient_checkpointing=False)


def another_policy(folder: Path) -> ReferencePolicy:
    """A reference that is not the policy: a teacher."""
    policy = policy_of(folder)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in policy.parameters():
            value += 0.05 * torch.randn(value.shape, generator=draw)
    return ReferencePolicy(policy, 1.0, CPU)


@pytest.mark.parametrize("method", RUNNABLE)
def test_it_moves_the_weights_and_says_how(
    method: str,
    alone: Collectives,
    engine: TrainingEngine,
    critic: CriticEngine,
    toy_model: Path,
    tmp_path: Path,
) -> None:
    objective = objective_of(method)
    valued = Need.CRITIC in needs(objective)
    reference = another_policy(toy_model) if Need.REFERENCE in needs(objective) else None
    trainer = Trainer(alone, engine, objective, reference, critic if valued else None)
    engine.policy.load_state_dict(policy_of(toy_model).state_dict())  # masks see a policy far from what sampled
    engine.forget_moments()
    state: ControllerStates = objective.start()
    before = {name: value.clone() for name, value in engine.weights.in_memory()}
    for number, ragged in enumerate(rows_of(objective)):
        schedule = Schedule(seed=1, micro_batch_tokens=120, updates_per_batch=2, epochs=1, progress=number / 2)
        facts = trainer.train(ragged, schedule, state)
        assert facts.applied == 2 and not facts.failed
        state = facts.state
        row = written_row(tmp_path, ragged, facts)
        assert all(map(math.isfinite, scalars(row.to_json()).values()))
        assert set(row.objective.control or {}) == set(objective.start())
        assert (row.objective.kl_ref is not None) == (reference is not None)
        assert (row.objective.loss_value is not None) == (row.objective.explained_variance is not None) == valued
    assert any(not torch.equal(before[name], value) for name, value in engine.weights.in_memory())
    assert json.loads(json.dumps(state)) == state and set(state) == set(objective.start())


def test_figures_of_responses_have_no_part_of_demonstrations(
    alone: Collectives, engine: TrainingEngine, tmp_path: Path
) -> None:
    """Beside other demonstrations of the same rewards, nothing but the losses and their own figures is different."""
    objective = objective_of("luffy")
    trainer = Trainer(alone, engine, objective, None)
    (first, _), lines = rows_of(objective), []
    for word in (first.tokens[0], VOCABULARY - 1):
        assert first.demonstration is not None
        ragged = replace(first, tokens=np.where(first.demonstration, word, first.tokens), answer=np.arange(16) % 3)
        engine.forget_moments()
        before = {name: value.clone() for name, value in engine.policy.state_dict().items()}
        facts = trainer.train(ragged, Schedule(1, 120, 1, 1, 0.0), objective.start())
        engine.policy.load_state_dict(before)
        lines.append(written_row(tmp_path, ragged, facts))
    one, other = (line.model_copy(update={"loss": 0.0, "grad_norm": 0.0, "time": None}) for line in lines)
    own = ("loss_aux_shaped_demonstration", "demonstration_nll")
    measures = [scalars(line.objective.model_copy(update=dict.fromkeys(own, 0.0)).to_json()) for line in (one, other)]
    assert measures[0] == pytest.approx(measures[1]) and one.responses == 12
    assert lines[0].objective.demonstration_nll != lines[1].objective.demonstration_nll
    for name in ("reward", "pass_rate", "entropy", "length_mean", "tokens", "lag_hist", "truncated", "ratio_mean"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.tokens == int((first.mask & ~first.demonstration).sum())
    sampled = np.arange(16) % 4 != 3
    assert one.reward == pytest.approx(RIGHT[sampled].mean()) == one.pass_rate


def test_the_change_of_entropy_is_that_of_the_batchs_own_tokens(alone: Collectives, engine: TrainingEngine) -> None:
    trainer, objective = Trainer(alone, engine, objective_of("grpo"), None), objective_of("grpo")
    schedule = Schedule(1, 60, 2, 1, 0.5, attributes=True)
    facts = trainer.train(RAGGED[0], schedule, objective.start())
    after = trainer.statistics(RAGGED[0], 10_000).entropy
    change = (after - facts.batch.statistics.entropy)[facts.batch.mask].double().mean()
    assert facts.entropy_change == pytest.approx(float(change), rel=1e-3) and facts.entropy_change != 0
    assert trainer.train(RAGGED[0], replace(schedule, attributes=False), objective.start()).entropy_change is None


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_a_student_comes_nearer_to_its_teacher(
    divergence: str, alone: Collectives, engine: TrainingEngine, toy_model: Path
) -> None:
    own = {"advantage": {"baseline": {"divergence": divergence}}}
    objective = build(load_objective("opd", own, Path()), Path(), max_new_tokens=LONGEST)
    trainer = Trainer(alone, engine, objective, another_policy(toy_model))
    engine.policy.load_state_dict(policy_of(toy_model).state_dict())  # not where another test has left it
    engine.forget_moments()
    gaps = []
    for _ in range(12):
        batch = trainer.train(RAGGED[0], Schedule(1, 120, 1, 1, 0.0), {}).batch
        assert batch.logp_ref is not None
        gaps.append(float((batch.logp_ref - batch.statistics.logp)[batch.mask].square().mean()))
    assert gaps[-1] < 0.5 * gaps[0]


def test_a_reward_without_answers_is_told_when_the_method_needs_them(
    alone: Collectives, engine: TrainingEngine
) -> None:
    trainer = Trainer(alone, engine, objective_of("seed_grpo"), None)
    silent = replace(RAGGED[0], answer=np.full(16, -1))
    with pytest.raises(RewardError, match="final answers"):
        trainer.train(silent, Schedule(1, 120, 1, 1, 0.0), {})


def test_a_reward_without_steps_is_told_when_the_method_needs_them(alone: Collectives, engine: TrainingEngine) -> None:
    trainer = Trainer(alone, engine, objective_of("bcpg_nsa"), None)
    with pytest.raises(RewardError, match="steps of reasoning"):
        trainer.train(replace(RAGGED[0], step_correct=None), Schedule(1, 120, 1, 1, 0.0), {})


def test_no_rank_waits_for_a_share_that_rank_0_cannot_deal(
    alone: Collectives, engine: TrainingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    monkeypatch.setattr(alone, "deal", lambda part_of: sent.append(part_of(1)))
    trainer, schedule = Trainer(alone, engine, objective_of("seed_grpo"), None), Schedule(1, 120, 1, 1, 0.0)
    with pytest.raises(RewardError):
        trainer.train(replace(RAGGED[0], answer=np.full(16, -1)), schedule, {})
    assert sent == [b""]
    monkeypatch.setattr(alone, "dealt", sent.pop)
    with pytest.raises(InternalError, match="rank 0"):
        trainer.train(None, schedule, {})


def test_a_skipped_update_leaves_the_controllers_as_they_are(
    alone: Collectives, engine: TrainingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, objective = engine.update, objective_of("advanced")
    trainer = Trainer(alone, engine, objective, None)
    schedule, start = Schedule(1, 120, 2, 1, 0.5), objective.start()
    moved = trainer.train(RAGGED[0], schedule, start)
    monkeypatch.setattr(engine, "update", lambda *given: replace(update(*given), applied=False))
    skipped = trainer.train(RAGGED[0], schedule, start)
    assert moved.applied == 2 and moved.state != start
    assert skipped.applied == 0 and skipped.state == start


def test_a_batch_of_which_no_update_is_applied_changes_no_critic(
    alone: Collectives, engine: TrainingEngine, critic: CriticEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its groups, which are retired and not kept, would have had a part in the weights after it."""
    update, before = engine.update, weights(critic)
    trainer = Trainer(alone, engine, objective_of("ppo"), None, critic)
    with monkeypatch.context() as unlucky:
        unlucky.setattr(engine, "update", lambda *given: replace(update(*given), applied=False))
        facts = trainer.train(RAGGED[0], Schedule(1, 120, 2, 1, 0.5), {})
    assert facts.failed and not facts.critic
    assert all(torch.equal(before[name], value) for name, value in weights(critic).items())
    assert len(trainer.train(RAGGED[0], Schedule(1, 120, 2, 1, 0.5), {}).critic) == 2
    assert not all(torch.equal(before[name], value) for name, value in weights(critic).items())


def weights(engine: TrainingEngine) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in engine.weights.in_memory()}
