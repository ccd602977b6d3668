"""Metrics of a batch, as one line of `metrics.jsonl`."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isentrope.learner.intake.intake_facts import FeederStatus
from isentrope.learner.intake.outcomes import Tally
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.measures import BatchProcess, BatchTime, FunctionReward, ServedPolicy
from isentrope.learner.objective.entropy_budget import entropy_budget
from isentrope.learner.objective.monitors import batch_metrics, demonstration_metrics, update_metrics
from isentrope.learner.records import BatchRow
from isentrope.learner.training.alarms import Alarms, Verdict
from isentrope.learner.training.deepspeed_engine import UpdateFacts
from isentrope.learner.training.entropy_law import MeasuredBatch, RunningFit
from isentrope.learner.training.journal import Journal
from isentrope.learner.training.sinks import Sink
from isentrope.learner.training.stopwatch import Stopwatch
from isentrope.learner.training.trainer import BatchFacts, applied_sums
from isentrope.learner.training.untrained import UntrainedCounts
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.wire.control import Mode


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Values of a line besides those of the trained batch."""

    mode: Mode
    """Mode that the batch was planned in."""
    intake: FeederStatus
    """Intake after the batch, before further orders were issued."""
    version: int
    """Newest published version of the weights."""
    actors: int
    """Actors that generate."""
    rewards: Mapping[str, FunctionReward]
    """Values of each reward function over the batch."""
    served: ServedPolicy | None
    """Proof that they serve what was published; None: none serves."""
    ranks: int
    """Learner ranks that trained the batch."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """State that goes on from line to line."""

    draws: "Draws | None"
    """None where no group is replaced for its outcome."""
    untrained: UntrainedCounts
    alarms: Alarms


class BatchLog:
    """Writer of a line for each batch to `metrics.jsonl`, and of its numbers to the sinks."""

    def __init__(self, folder: Path, sinks: Sequence[Sink], watch: Stopwatch, accounts: "Accounts") -> None:
        """Continue `metrics.jsonl`."""
        self._journal = Journal(folder, BatchRow)
        self._sinks = sinks
        self._watch = watch
        self._accounts = accounts
        self._law = RunningFit([], None)
        self._row_at_s = 0.0

    def rewind(self, batch: int, refreshed_at: int | None) -> None:
        """Remove lines of later batches, -1: all; the reference was last refreshed after batch `refreshed_at`."""
        self._journal.rewind(batch)
        self._law = RunningFit(self._journal.parts(MeasuredBatch), refreshed_at)
        for row in self._journal.ends(self._accounts.alarms.memory):
            self._accounts.alarms.add(row)

    def restart_law(self) -> None:
        """Fit only later batches, because the reference was refreshed."""
        self._law.restart()

    def write(self, ragged: RaggedBatch, facts: BatchFacts, around: Surroundings) -> Verdict:
        """Write the line of a batch that was trained; return its alarms."""
        measured = measure(ragged, facts)
        drawn = self._accounts.draws.with_batch(measured, around.intake.replaced) if self._accounts.draws else Drawn()
        law = self._law.add(measured["entropy"], measured["reward"] if drawn.reward is None else drawn.reward)
        if law is not None:
            measured["entropy_law"] = law
        measured["untrained"] = self._accounts.untrained.since(around.intake, ragged, facts)
        row = _row(measured, around, self._time(measured["tokens"]), drawn)
        verdict = self._accounts.alarms.add(row)
        self._journal.append(row.model_copy(update={"alarms": dict(verdict.raised) or None}))
        switches = {f"alarm/{name}": float(name in verdict.raised) for name in self._accounts.alarms.bounds}
        for sink in self._sinks:
            sink.write(row.batch, scalars(row.to_json()) | switches)
        return verdict

    def _time(self, tokens: int) -> BatchTime:
        now, spent = self._watch.total_s, self._watch.take()
        elapsed_s, self._row_at_s = now - self._row_at_s, now
        return BatchTime(
            at=time.time(),  # clock time, because the command began before this learner
            seconds_total=now,
            wait_s=spent.get("wait_s", 0.0),
            stats_s=spent.get("stats_s", 0.0),
            update_s=spent.get("update_s", 0.0),
            publish_s=spent.get("publish_s", 0.0),
            evaluate_s=spent.get("evaluate_s", 0.0),
            checkpoint_s=spent.get("checkpoint_s", 0.0),
            tokens_per_second=tokens / max(elapsed_s, 1e-9),
        )


def measure(ragged: RaggedBatch, facts: BatchFacts) -> dict[str, Any]:
    """Return, by name, the metrics of a trained batch that depend on the trained data only."""
    sampled = facts.prepared.of_responses()
    batch = sampled.batch if sampled is not facts.prepared else facts.batch
    measured = batch_metrics(batch, sampled) | _updates(facts.updates)
    measured |= entropy_budget(batch, sampled) | demonstration_metrics(facts.prepared)
    if facts.entropy_change is not None:
        measured["entropy_change"] = facts.entropy_change
    if facts.at_bound:
        measured["control_at_bound"] = facts.at_bound
    if facts.idle:
        measured["control_idle"] = facts.idle
    for name, number in {"control": "value", "control_target": "target"}.items():
        if found := {kind: numbers[number] for kind, numbers in facts.state.items() if number in numbers}:
            measured[name] = found
    lag = ragged.lag[ragged.mask & ragged.sampled]
    norms = [update.grad_norm for update in facts.updates if update.applied]
    return (
        measured
        | _critic(facts.critic)
        | {
            "batch": ragged.number + 1,
            "grad_norm": float(np.mean(norms)) if norms else 0.0,
            "updates": len(facts.updates),
            "skipped": len(facts.updates) - facts.applied,
            "groups": len(ragged.prompt_length),
            "responses": len(batch.length),
            "lag_mean": float(lag.mean()) if lag.size else 0.0,
            "lag_max": int(lag.max()) if lag.size else 0,
            "lag_hist": dict(sorted(Counter(lag.tolist()).items())),
            "tokens_masked": int(ragged.sampled.sum()) - lag.size,
        }
    )


def _row(measured: Mapping[str, Any], around: Surroundings, spent: BatchTime, drawn: "Drawn") -> BatchRow:
    """Return the line; names that are not its own keys go into its map `objective`."""
    intake = around.intake
    headlines = {name: value for name, value in measured.items() if name in BatchRow.model_fields}
    return BatchRow.model_validate(
        {
            **headlines,
            "objective": {name: value for name, value in measured.items() if name not in headlines},
            "rewards": around.rewards,
            "mode": around.mode.value,
            "trained": intake.trained,
            "retired": sum(intake.retired.values()),
            "issued": intake.issued,
            "process": BatchProcess(
                ready_groups=intake.ready,
                idle_s=intake.idle_s,
                reward_drawn=drawn.reward,
                pass_rate_drawn=drawn.pass_rate,
                actors=around.actors,
                served=around.served,
                ranks=around.ranks,
            ),
            "version": around.version,
            "time": spent,
        }
    )


def served_policy(actors: Sequence[ActorState]) -> ServedPolicy | None:
    """Return what actors have proven about the newest version that any of them serves; None if none does."""
    serving = [actor for actor in actors if actor.state in (ActorStage.SERVING, ActorStage.STALE)]
    newest = max((actor.version for actor in serving if actor.proof is not None), default=0)
    proofs = [actor.proof for actor in serving if actor.proof is not None and actor.version == newest]
    if not proofs:
        return None
    return ServedPolicy(
        version=newest,
        tensors=proofs[0].tensors,
        gap_mean=max((each.gap_mean for each in proofs if each.gap_mean is not None), default=None),
        gap_max=max((each.gap_max for each in proofs if each.gap_max is not None), default=None),
        seconds=max(each.seconds for each in proofs),
        refused=sum(actor.refused for actor in actors),
    )


@dataclass(frozen=True, slots=True)
class Drawn:
    """Means over all responses drawn for a batch; None where no group is replaced, or rewards are graded."""

    reward: float | None = None
    pass_rate: float | None = None


class Draws:
    """Counter of groups that were replaced for their outcome, which a mean over what was drawn must include."""

    def __init__(self) -> None:
        self._replaced = Tally()

    def with_batch(self, measured: Mapping[str, Any], replaced: Tally) -> Drawn:
        """Return the means over a batch and all that was replaced since the one before; `replaced`: by this learner."""
        new, self._replaced = replaced - self._replaced, replaced
        size = measured["responses"]
        reward = (measured["reward"] * size + new.reward) / (size + new.responses)
        if "pass_rate" not in measured:
            return Drawn(reward)
        return Drawn(reward, (measured["pass_rate"] * size + new.correct) / (size + new.responses))


def scalars(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a JSON object by name; names of nested ones are joined by `/`."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            flat[prefix + name] = float(value)
    return flat


def _critic(updates: tuple[UpdateFacts, ...]) -> dict[str, float]:
    """Return the metrics over the critic's updates that were applied, means over them; empty if there were none."""
    applied = [update for update in updates if update.applied]
    if not applied:
        return {}
    loss = applied_sums(applied)["loss_value"] / len(applied)
    return {"loss_value": loss, "critic_grad_norm": float(np.mean([update.grad_norm for update in applied]))}


def _updates(updates: tuple[UpdateFacts, ...]) -> dict[str, float]:
    """Return the metrics over all updates that were applied; losses are means over updates."""
    applied = [update for update in updates if update.applied]
    if not applied:
        return {"loss": 0.0, "clip_high": 0.0, "clip_low": 0.0, "ratio_mean": 1.0, "ratio_max": 1.0}
    sums = applied_sums(updates)
    sums |= {name: value / len(applied) for name, value in sums.items() if name.startswith("loss_")}
    maxima = {name: max(update.maxima[name] for update in applied) for name in applied[0].maxima}
    return update_metrics(sums, maxima)
