"""One objective: stages in their order, over one batch and its updates.

`prepare` runs once for a batch, on rank 0, with the steps that need all responses: filters, rewards, advantages,
statistics, selections, corrections, denominators. `token_loss` then gives the part of an update's loss that some
responses make; the parts of all micro-batches of all ranks add up to the loss, however the responses are divided:

    loss = sum_it reduce_i mask_it (weight_it surrogate_it + sum_k coef_k weight^k_it kl^k_it - coef_H H_it)
           + auxiliary terms
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from isentrope.kernels.limits import LOG_RATIO_CLAMP
from isentrope.learner.objective import critic_terms, monitors, philox, selection
from isentrope.learner.objective.batch import Batch, LossParts, Prepared
from isentrope.learner.objective.dimensions import AUX_SETS, KlKeys
from isentrope.learner.objective.places import LEARNING_RATE, SEVERAL, SINGLE, set_values, split_target, with_values
from isentrope.learner.objective.schema import Stage
from isentrope.learner.objective.stages import advantage as advantages
from isentrope.learner.objective.stages import kl
from isentrope.learner.objective.stages.control import ControllerState, at_bound, idle

Scope = dict[str, Any]
ControllerStates = Mapping[str, ControllerState]
"""An objective's part of a checkpoint: numbers of each controller, by its kind, and of the reset rule."""

NO_STATE: ControllerStates = {}
CURRENT = frozenset({"logp", "log_ratio", "ratio"})
"""Names that mean the current policy: a response mask or correction that reads one is evaluated in every update."""


@dataclass(frozen=True, slots=True)
class KlTerm:
    """One divergence of the loss. tokens: the stage that weighs its tokens; None: all alike."""

    estimator: Stage
    keys: KlKeys
    tokens: Stage | None


@dataclass(frozen=True, slots=True)
class Objective:
    """The stages of a run, by dimension; `stats`, `routing` and `sampling_mask` as in `dimensions.CHOICES`."""

    stats: str
    routing: str
    sampling_mask: str
    filter: tuple[Stage, ...]
    reward: tuple[Stage, ...]
    baseline: Stage
    scale: Stage
    modulation: tuple[Stage, ...]
    tokens: tuple[Stage, ...]
    responses: tuple[Stage, ...]
    correction: tuple[Stage, ...]
    anchor: Stage
    level: Stage
    clip: Stage
    kl: tuple[KlTerm, ...]
    entropy: Stage
    aux: tuple[Stage, ...]
    reduce: Stage
    control: tuple[Stage, ...]
    reset: Stage
    critic: Stage

    def prepare(self, batch: Batch, updates: Sequence[Tensor], state: ControllerStates = NO_STATE) -> Prepared:
        """Compute everything of `batch` that its updates do not change.

        Args:
            batch: with the fields that the objective needs.
            updates: response numbers of each update ([n] int64), whole groups; epochs follow each other.
            state: of the controllers. What is computed here keeps their present values during all updates.
        """
        return self.controlled(state)._prepared(self.seen(batch), updates)

    def _prepared(self, batch: Batch, updates: Sequence[Tensor]) -> Prepared:
        kept = selection.kept_rows(batch, self.filter)
        mask = batch.mask & kept[:, None]
        # selections and sums see responses in the order of their ids, not in that of their arrival
        order = _by_id(batch)
        rows = order[kept[order]]
        blank = torch.zeros_like(batch.logp_rollout)
        reduce = self._reduce(batch, mask, updates)
        prepared = Prepared(
            batch=batch,
            mask=mask,
            advantage=blank,
            weight=blank,
            reduce=reduce,
            tokens=torch.stack([mask[rows].sum() for rows in updates]),
            kl_weight=tuple(None if term.tokens is None else blank for term in self.kl),
            aux_reduce=tuple(self._aux_reduce(stage, batch, mask, updates, reduce) for stage in self.aux),
            metrics={},
        )
        if not mask.any():
            return prepared
        part = batch.take(rows)
        scope = part.named()
        self._set_advantage(scope)
        self._set_statistics(scope, part)
        factors = self._fixed_weights(scope)
        weight = math.prod((factor for _, factor in factors), start=torch.ones_like(blank[rows]))
        return replace(
            prepared,
            advantage=selection.placed(scope["advantage"], rows, blank),
            weight=selection.placed(weight, rows, blank),
            returns=selection.placed(scope["returns"], rows, blank) if "returns" in scope else None,
            kl_weight=tuple(
                given
                if term.tokens is None or self.stats == "microbatch"
                else selection.placed(term.tokens(scope), rows, blank)
                for term, given in zip(self.kl, prepared.kl_weight, strict=True)
            ),
            metrics=monitors.prepared_metrics(scope, factors),
        )

    def seen(self, batch: Batch) -> Batch:
        """Return the batch with the log-probabilities of the policy before it that `stats` names."""
        if self.stats != "rollout":
            return batch
        return replace(batch, statistics=batch.statistics._replace(logp=batch.logp_rollout))

    def token_loss(  # noqa: PLR0913  (four tensors of an update, and its state)
        self,
        prepared: Prepared,
        update: int,
        rows: Tensor,
        logp: Tensor,
        entropy: Tensor,
        state: ControllerStates = NO_STATE,
    ) -> LossParts:
        """Return the part of an update's loss that responses `rows` add.

        Args:
            prepared: the batch.
            update: number of the update in those given to `prepare`.
            rows: [n] int64, response numbers of the batch.
            logp: [n, T], of the current policy, with gradient; values off the mask are ignored.
            entropy: [n, T], of the current policy, with gradient.
            state: of the controllers, as before this update.
        """
        return self.controlled(state)._token_loss(prepared, update, rows, logp, entropy)

    def _token_loss(self, prepared: Prepared, update: int, rows: Tensor, logp: Tensor, entropy: Tensor) -> LossParts:
        scope = self._update_scope(prepared, rows, logp, entropy)
        whole, mask = prepared.mask[rows], scope["mask"]
        reduce = prepared.reduce[update, rows].to(logp.dtype)[:, None]

        policy = self.clip(scope)
        scope["clipped"] = monitors.without_gradient(policy, scope["logp"])
        moving = self._moving_weights(scope)
        scope["weight"] = math.prod((factor for _, factor in moving), start=prepared.weight[rows])
        terms = {"policy": reduce * torch.where(mask, scope["weight"] * policy, 0.0)}
        for place, term in enumerate(self.kl):
            value = _divergence(term, scope)
            if term.tokens is not None:
                value = value * self._token_weight(term.tokens, prepared.kl_weight[place], scope, rows)
            terms[f"kl_{place}"] = reduce * torch.where(mask, value, 0.0)
        counted = mask & (scope["weight"] != 0) if self.entropy.params["tokens"] == "selected" else mask
        terms["entropy"] = reduce * torch.where(counted, self.entropy(scope), 0.0)
        for stage, factor in zip(self.aux, prepared.aux_reduce, strict=True):
            value = stage(scope | {"mask": whole})
            own = factor[update, rows].to(logp.dtype)[:, None]
            terms[f"aux_{stage.kind.name}"] = own * torch.where(whole, value, 0.0)

        losses = {name: term.sum() for name, term in terms.items()}
        sums, maxima = monitors.update_sums(scope, losses, moving)
        return LossParts(torch.stack(list(losses.values())).sum(), sums, maxima)

    def start(self) -> ControllerStates:
        """Return the controllers' state before the first update."""
        return {stage.kind.name: {"value": float(stage.params["initial"])} for stage in self.control}

    def after_update(self, state: ControllerStates, sums: Mapping[str, float], progress: float) -> ControllerStates:
        """Return the controllers' state after an update that was applied; a skipped one does not change it.

        Args:
            state: before the update.
            sums: `LossParts.sums`, added over all micro-batches and ranks.
            progress: share of the run that is done.
        """
        return self._stepped("update", state, sums, progress)

    def after_batch(self, state: ControllerStates, sums: Mapping[str, float], progress: float) -> ControllerStates:
        """Return the state after a batch, from the sums over all its updates that were applied."""
        return self._stepped("batch", state, sums, progress)

    def after_evaluation(self, state: ControllerStates, score: float, batch: int) -> tuple[ControllerStates, bool]:
        """Return the state after an evaluation that gave `score` after `batch` batches, and True if the current policy
        now becomes the reference, with a fresh optimizer."""
        stepped: Mapping[str, float] = self.reset({"state": state.get("reset", {}), "score": score, "batch": batch})
        return ({**state, "reset": stepped}, bool(stepped["reset"])) if stepped else (state, False)

    def at_bound(self, state: ControllerStates) -> tuple[str, ...]:
        """Return the controllers whose value is at a bound beyond which they would go on, by kind."""
        return at_bound(self.control, state)

    def idle(self, state: ControllerStates) -> tuple[str, ...]:
        """Return the controllers whose value does nothing, by kind."""
        return idle(self.control, state)

    @property
    def updates_read(self) -> frozenset[str]:
        """Columns of the batch that `token_loss` reads: all others are read once, when a batch is prepared."""
        anchored = [name for term in self.kl for name in (term.keys.anchor, term.keys.importance)]
        stages = [self.anchor, self.level, self.clip, self.entropy, *self.aux, *(term.estimator for term in self.kl)]
        stages += [stage for stage in self.tokens if self._follows_update(stage)]
        stages += [stage for stage in (*self.responses, *self.correction) if self._follows_policy(stage)]
        if self.stats == "microbatch":
            stages += [term.tokens for term in self.kl if term.tokens is not None]
        read = {name for stage in stages for name in (*stage.kind.reads, *stage.kind.may_read)}
        return frozenset(read | ({"logp_rollout"} if self.stats == "rollout" or "rollout" in anchored else set()))

    @property
    def refill(self) -> int:
        """Batches' worth of groups of one outcome that may be replaced for one batch."""
        return max((int(stage.params.get("refill", 0)) for stage in self.filter), default=0)

    @property
    def refill_by(self) -> Literal["reward", "correct"]:
        """Property that tells the outcomes of such a group apart."""
        by = {stage.params.get("by", "reward") for stage in self.filter if stage.params.get("refill")}
        return "correct" if by == {"correct"} else "reward"

    def refreshed_at(self, state: ControllerStates) -> int | None:
        """Return the batch after which the reference was last refreshed; None: it is the run's first model."""
        last = state.get("reset", {}).get("last", -1.0)
        return int(last) if last >= 0 else None

    def learning_rate(self, state: ControllerStates) -> float:
        """Return the factor on the learning rate that a controller sets; 1 without one."""
        return set_values(self.control, state).get("", {}).get(LEARNING_RATE, 1.0)

    def controlled(self, state: ControllerStates) -> "Objective":
        """Return the objective with the values that controllers have set."""
        values = set_values(self.control, state)
        if not values:
            return self
        changed: dict[str, Any] = {
            name: with_values(getattr(self, name), place, values) for name, place in SINGLE.items()
        }
        for name in SEVERAL:
            changed[name] = tuple(with_values(s, f"{name}.{s.kind.name}", values) for s in getattr(self, name))
        kl = tuple(replace(t, keys=t.keys.model_copy(update=values.get(f"kl.{t.keys.anchor}"))) for t in self.kl)
        return replace(self, **changed, kl=kl)

    def _stepped(
        self, every: str, state: ControllerStates, sums: Mapping[str, float], progress: float
    ) -> ControllerStates:
        stages = [stage for stage in self.control if stage.params.get("every", "update") == every]
        measured = monitors.measured(sums) | {"progress": progress}
        return {**state, **{s.kind.name: s(measured | {"state": state[s.kind.name]}) for s in stages}}

    def _reduce(self, batch: Batch, mask: Tensor, updates: Sequence[Tensor]) -> Tensor:
        out = torch.zeros(len(updates), len(mask), dtype=torch.float64)
        for update, rows in enumerate(updates):
            out[update, rows] = self.reduce({"mask": mask[rows], "group": batch.group[rows]})
        return out

    def _aux_reduce(
        self, stage: Stage, batch: Batch, mask: Tensor, updates: Sequence[Tensor], shared: Tensor
    ) -> Tensor:
        """Return a term's `_reduce`: a mean over its own tokens, if it has some, else the shared denominators."""
        own = AUX_SETS.get(stage.kind.function)
        if own is None:
            return shared
        scope = batch.named() | {"mask": mask}
        tokens: Tensor = own.function(**{name: scope[name] for name in own.reads})
        out = torch.zeros_like(shared)
        for update, rows in enumerate(updates):
            out[update, rows] = 1 / tokens[rows].sum().clamp_min(1).double()
        return out

    def _set_advantage(self, scope: Scope) -> None:
        """Set the shaped `reward` and the `advantage` [N, T]."""
        mask, penalty = scope["mask"], torch.zeros_like(scope["logp_rollout"])
        for stage in self.reward:
            shaped = stage(scope)
            if shaped.dim() == 1:
                scope["reward"] = shaped
            else:
                penalty = penalty + shaped
        scope["token_reward"] = advantages.outcome_rewards(scope["reward"], penalty, mask)
        scope["reward"] = scope["reward"] + penalty.sum(1)
        advantage = self.baseline(scope)
        if advantage.dim() == 1:
            advantage = advantage[:, None]
        scope["advantage"] = advantage * mask
        advantage = self.scale(scope)
        for stage in self.modulation:
            advantage = advantage * stage(scope)[:, None]
        scope["advantage"] = advantage * mask
        scope |= critic_terms.targets(self.critic, self.baseline, scope)

    def _set_statistics(self, scope: Scope, batch: Batch) -> None:
        """Set the inputs of selections. Demonstrations have no log-probabilities and take part in no statistic."""
        if "demonstration" in scope:
            scope["mask"] = scope["mask"] & ~scope["demonstration"]
        scope["logp"] = scope["logp_old"]
        scope["entropy"] = scope["entropy_old"]
        scope["clipped"] = torch.zeros_like(batch.mask)  # before the first update every ratio is 1
        scope["uniform"] = self._uniform(batch, update=0)

    def _uniform(self, batch: Batch, *, update: int) -> Tensor | None:
        if not any("uniform" in stage.kind.reads for stage in self.tokens):
            return None
        return philox.uniform(batch.seed, batch.number, update, batch.seq, batch.index, batch.mask.shape[1])

    def _fixed_weights(self, scope: Scope) -> list[tuple[str, Tensor]]:
        """Yield the weights that no update changes, with their kinds: [N, T] each."""
        fixed = [stage for stage in self.tokens if not self._follows_update(stage)]
        fixed += [stage for stage in (*self.responses, *self.correction) if not self._follows_policy(stage)]
        return [(stage.kind.name, stage(scope)) for stage in fixed]

    def _moving_weights(self, scope: Scope) -> list[tuple[str, Tensor]]:
        """Return the weights that follow the current policy or a controller, with their kinds: [n, T] each."""
        tokens = [stage for stage in self.tokens if self._follows_update(stage)]
        others = [stage for stage in (*self.responses, *self.correction) if self._follows_policy(stage)]
        if not scope["mask"].any():
            return [(stage.kind.name, torch.ones_like(scope["advantage"])) for stage in (*tokens, *others)]
        now = _detached(scope)
        # a correction reaches from the engine that sampled to the anchor of the ratio, wherever that is
        anchored = now | {"logp_old": now["logp_anchor"]}
        weights = [(s.kind.name, s(now)) for s in tokens]
        return weights + [(s.kind.name, s(anchored)) for s in others]

    def _token_weight(self, stage: Stage, of_batch: Tensor | None, scope: Scope, rows: Tensor) -> Tensor:
        """Return the weight of a KL term's tokens: [n, T]."""
        if self.stats == "microbatch" and scope["mask"].any():
            weight: Tensor = stage(_detached(scope))
            return weight
        assert of_batch is not None
        return of_batch[rows]

    def _follows_update(self, stage: Stage) -> bool:
        """Return True if a token stage is evaluated in every update: by `stats`, or because a controller sets it and it
        looks at each token alone. One that looks at the whole batch takes the value of the start of the batch."""
        places = [split_target(str(control.params["of"]))[0] for control in self.control]
        controlled = f"tokens.{stage.kind.name}" in places and "mask" not in stage.kind.reads
        return self.stats == "microbatch" or controlled

    def _follows_policy(self, stage: Stage) -> bool:
        """Return True if a response mask or correction reads the current policy, also through the ratio's anchor."""
        anchor_moves = "logp_old" in stage.kind.reads and "logp" in self.anchor.kind.reads
        return anchor_moves or not CURRENT.isdisjoint(stage.kind.reads)

    def _update_scope(self, prepared: Prepared, rows: Tensor, logp: Tensor, entropy: Tensor) -> Scope:
        part, whole = prepared.batch.take(rows), prepared.mask[rows]
        scope = part.named()
        # off the mask everything is 0, so that no value there can reach a sum, not even as 0 times infinity
        for name, value in scope.items():
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 2 and name != "parts":
                scope[name] = value.masked_fill(~whole, 0.0)
        scope |= {
            "mask": whole & ~scope["demonstration"] if "demonstration" in scope else whole,
            "advantage": prepared.advantage[rows],
            "logp": torch.where(whole, logp, 0.0),
            "entropy": torch.where(whole, entropy, 0.0),
            "uniform": self._uniform(part, update=1) if self.stats == "microbatch" else None,
        }
        scope["logp_anchor"] = self.anchor(scope)
        scope["log_ratio"] = self.level(scope)
        scope["ratio"] = scope["log_ratio"].exp()
        return scope


def _divergence(term: KlTerm, scope: Scope) -> Tensor:
    """Return coef times the term's estimate per token: [n, T]."""
    logp, keys = scope["logp"], term.keys
    x = (logp - scope[f"logp_{keys.anchor}"]).clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP)
    value: Tensor = term.estimator(scope | {"x": x})
    if keys.gradient == "k2":
        value = kl.with_k2_gradient(value, x)
    if keys.importance != "none":
        sampled = logp.detach() if keys.importance == "score" else scope[f"logp_{keys.importance}"]
        value = kl.importance_weighted(value, logp, sampled)
    return value * keys.coef


def _detached(scope: Scope) -> Scope:
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in scope.items()}


def _by_id(batch: Batch) -> Tensor:
    """Return response numbers in the order of (seq, index)."""
    by_index = torch.argsort(batch.index, stable=True)
    return by_index[torch.argsort(batch.seq[by_index], stable=True)]
