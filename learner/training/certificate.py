"""Results of a method on one batch by every division of it: the tokens that it selects, and each update's gradient.

Every rank of a launch runs `examine`: the trainer itself, its engine and its collectives, over a small batch. The one
rank of the first launch writes what all others are compared with, the whole batch in one micro-batch. Weights do not
follow the gradients, since Adam would make much of a rounded one; instead all updates are of weights near those that
the statistics are of, so that ratios are not 1.

N responses, T tokens of the longest, W weights of the model or of the critic, U updates.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from isentrope.learner.config import LearnerConfig
from isentrope.learner.intake.packing import Packed
from isentrope.learner.intake.plan import Plan, Sweep
from isentrope.learner.intake.ragged import RaggedBatch
from isentrope.learner.objective.batch import Prepared
from isentrope.learner.objective.needs import Need, needs
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import build, load_objective
from isentrope.learner.training import certificate_batch
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.critic import CriticEngine, ValueModel
from isentrope.learner.training.deepspeed_engine import TrainingEngine, UpdateFacts
from isentrope.learner.training.micro_batch import Loss
from isentrope.learner.training.model import Policy, load_policy
from isentrope.learner.training.reference_policy import ReferencePolicy
from isentrope.learner.training.trainer import BatchFacts, Schedule, Trainer

Packing: TypeAlias = Literal["planned", "in order", "shuffled"]
PACKINGS: tuple[Packing, ...] = ("planned", "in order", "shuffled")
"""Ways to choose the responses that share a micro-batch: by the product's plan, as they come, by lot."""
ALL = 0
"""Responses per micro-batch: all that the rank has."""
SIZES = (1, 2, 8, ALL)
LIMIT = 5e-6
"""Largest norm of the difference of two gradients, relative to the norm of one: several times what float32 rounds."""
COUNTED = ("tokens", "selected", "clip_high", "clip_low", "clip_dual")
"""Monitors of an update that count tokens."""
SUPPLIED = frozenset(
    {
        Need.REFERENCE,
        Need.TEACHER,
        Need.ANSWERS,
        Need.CORRECTNESS,
        Need.REWARDS,
        Need.CRITIC,
        Need.STEP_LABELS,
        Need.GREEDY,
        Need.DEMONSTRATIONS,
    }
)
"""Needs of methods that the small batch, and the policies beside it, supply."""
CASES = "cases.jsonl"
CPU = torch.device("cpu")
TEMPERATURE = 0.8
MOVED = 0.03
"""Standard deviation of a weight's change between statistics and updates, or to a teacher, relative to the weight."""
VALUED = 0.1
"""Standard deviation of the weights of the critic's last layer, which a run begins at 0."""


@dataclass(frozen=True, slots=True)
class Division:
    """Division of a batch on one rank. size: responses per micro-batch; ALL: one micro-batch."""

    size: int
    packing: Packing


DIVISIONS = tuple(Division(size, packing) for size, packing in product(SIZES, PACKINGS))


@dataclass(frozen=True, slots=True)
class Request:
    """Work of one launch of ranks. folder: with the model and the batch; overrides: keys of the objective over each
    method's."""

    folder: Path
    methods: tuple[str, ...]
    divisions: tuple[Division, ...] = DIVISIONS
    overrides: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """One division of the batch among ranks and micro-batches, compared with the whole batch at once.

    sets: by the name of a set, the tokens that are in one of the two and not in the other, where there are any; of what
    an update only counts, by how much the counts differ. gradient: largest difference of any update of the policy or
    its critic, relative to its norm. weighed: tokens with a weight, so that a method that selects none is noticed.
    """

    method: str
    ranks: int
    size: int
    packing: Packing
    sets: Mapping[str, int]
    gradient: float
    weighed: int

    @property
    def differs(self) -> bool:
        """True if the division shows in anything."""
        return bool(self.sets) or not self.gradient <= LIMIT


@dataclass(frozen=True, slots=True)
class _Seen:
    """Results of one training. sets: [N, T] bool; gradients: [U, W] each, of the policy and of a critic, if there is
    one; counts: [U] each, of tokens over all ranks."""

    sets: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    counts: Mapping[str, Tensor]


class Recorder(TrainingEngine):
    """An engine that does not change its weights, and keeps the gradient of every update, as it is applied: [W]."""

    gradients: list[Tensor]
    first: Sequence[Tensor]
    """Weights of the statistics."""
    moved: Sequence[Tensor]
    """Weights of the updates."""

    def prepare(self, seed: int) -> None:
        """Take the present weights for those of the statistics, and random ones near them for those of the updates."""
        self.first = [parameter.detach().clone() for parameter in self.policy.parameters()]
        self.moved = _near(self.first, seed)

    @torch.no_grad()
    def begin(self) -> None:
        """Go back to the weights of the statistics."""
        self._take(self.first)
        self.gradients = []

    @torch.no_grad()
    def update(self, micro_batches: Sequence[Packed], loss: Loss) -> UpdateFacts:
        """Do an update of the moved weights."""
        self._take(self.moved)
        with torch.enable_grad():
            return super().update(micro_batches, loss)

    def _take(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.policy.parameters(), values, strict=True):
            parameter.copy_(value)

    def _learning_rate(self) -> float:
        return 0.0

    def _apply(self) -> tuple[bool, float]:
        gradients = (parameter.grad for parameter in self.policy.parameters())
        self.gradients.append(torch.cat([each.flatten() for each in gradients if each is not None]).double())
        return super()._apply()


class CriticRecorder(Recorder, CriticEngine):
    """The same for a critic."""


class Divided(Trainer):
    """A trainer whose batches are divided as a case says."""

    division: Division

    def _plan(self, ragged: RaggedBatch, schedule: Schedule) -> Plan:
        if self.division.packing != "planned":
            return divided(super()._plan(ragged, schedule), self._collectives.size, self.division)
        tokens = self.division.size * int(ragged.packed_length.mean()) or int(ragged.packed_length.sum())
        return super()._plan(ragged, replace(schedule, micro_batch_tokens=tokens))


def divided(plan: Plan, ranks: int, division: Division) -> Plan:
    """Return a plan's passes, dealt to the ranks one response after another and cut into micro-batches of one size."""
    order = np.array(plan.statistics.rows)
    if division.packing == "shuffled":
        order = np.random.default_rng(len(order) + ranks).permutation(order)
    held = [tuple(order[rank::ranks].tolist()) for rank in range(ranks)]

    def cut(sweep: Sweep) -> Sweep:
        own = [tuple(row for row in rows if row in sweep.rows) for rows in held]
        size = division.size or max(1, *map(len, own))
        parts = [tuple(tuple(sorted(rows[at : at + size])) for at in range(0, len(rows), size)) for rows in own]
        most = max(map(len, parts))
        return Sweep(sweep.rows, tuple((*each, *[()] * (most - len(each))) for each in parts))

    return Plan(cut(plan.statistics), tuple(map(cut, plan.updates)))


class _Bench:
    """Engines whose weights go back to those of the model's folder before each training."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        config = LearnerConfig(zero_stage=0)
        self.engine = Recorder(self.policy(), TEMPERATURE, config, CPU)
        self.engine.prepare(seed=0)
        self.critic = CriticRecorder(self.policy(), config, CPU)
        head = self.critic.policy
        assert isinstance(head, ValueModel)
        torch.nn.init.normal_(head.value.weight, std=VALUED, generator=torch.Generator().manual_seed(1))
        self.critic.prepare(seed=1)

    def policy(self) -> Policy:
        """Return the policy of the folder."""
        return load_policy(str(self._folder), dtype=torch.float32, device=CPU, gradient_checkpointing=False)

    @torch.no_grad()
    def reference(self, objective: Objective) -> ReferencePolicy | None:
        """Return the model that a method compares the policy with: the same, or a teacher near it; None: no model."""
        if not {Need.REFERENCE, Need.TEACHER} & set(needs(objective)):
            return None
        policy = self.policy()
        if Need.TEACHER in needs(objective):
            weights = list(policy.parameters())
            for parameter, value in zip(weights, _near(weights, seed=2), strict=True):
                parameter.copy_(value)
        return ReferencePolicy(policy, TEMPERATURE, CPU)


def _near(weights: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Return random weights near some."""
    draw = torch.Generator().manual_seed(seed)
    return [each.detach() * (1 + MOVED * torch.randn(each.shape, generator=draw)) for each in weights]


def lacking(objective: Objective) -> tuple[str, ...]:
    """Return the needs of a method that the small batch does not supply."""
    return tuple(sorted(need.value for need in needs(objective) if need not in SUPPLIED))


def objective_of(method: str, overrides: Mapping[str, object], folder: Path) -> Objective:
    """Return the objective of a preset with own keys, without the batches that train a critic alone."""
    objective = build(load_objective(method, overrides, folder), folder, max_new_tokens=certificate_batch.LONGEST)
    critic = objective.critic
    return replace(
        objective, critic=replace(critic, params={**critic.params, "warmup_batches": 0} if critic.params else {})
    )


def examine(request: Request) -> None:
    """Train every method by every division with the ranks of this launch; rank 0 adds a line to `CASES` for each."""
    torch.set_num_threads(1)
    bench = _Bench(request.folder)
    collectives = Collectives(600.0)
    for method in request.methods:
        for case in _cases(method, request, bench, collectives):
            with (request.folder / CASES).open("a") as file:
                file.write(json.dumps(asdict(case)) + "\n")


def cases(folder: Path) -> list[Case]:
    """Return the cases that launches have written so far."""
    path = folder / CASES
    lines = path.read_text().splitlines() if path.exists() else []
    return [Case(**json.loads(line)) for line in lines]


def _cases(method: str, request: Request, bench: _Bench, collectives: Collectives) -> Iterator[Case]:
    """Yield the cases of a method, on rank 0 alone."""
    objective = objective_of(method, request.overrides, request.folder)
    critic = bench.critic if Need.CRITIC in needs(objective) else None
    trainer = Divided(collectives, bench.engine, objective, bench.reference(objective), critic)
    shown = Need.DEMONSTRATIONS in needs(objective)
    ragged = certificate_batch.read(request.folder, shown=shown) if collectives.rank == 0 else None
    path = request.folder / f"{method}.safetensors"
    if collectives.size == 1:
        trainer.division = Division(ALL, "planned")
        save_file(_flat(_trained(trainer, bench, ragged, objective)), path)
    for division in request.divisions:
        trainer.division = division
        seen = _trained(trainer, bench, ragged, objective)
        if collectives.rank == 0:
            yield _compared(method, collectives.size, division, _flat(seen), load_file(path))


def _trained(trainer: Divided, bench: _Bench, ragged: RaggedBatch | None, objective: Objective) -> _Seen:
    """Train the batch in two updates; return what is seen on this rank."""
    engines = {"policy": bench.engine, "critic": bench.critic}
    for engine in engines.values():
        engine.begin()
    schedule = Schedule(seed=1, micro_batch_tokens=10**6, updates_per_batch=2, epochs=1, progress=0.5)
    facts = trainer.train(ragged, schedule, objective.start())
    gradients = {name: torch.stack(engine.gradients) for name, engine in engines.items() if engine.gradients}
    return _Seen(_sets(facts.prepared), gradients, _counts(facts))


def _sets(prepared: Prepared) -> dict[str, Tensor]:
    """Return the sets of tokens that a method has chosen."""
    found = {"trained": prepared.mask, "weighed": prepared.mask & (prepared.weight != 0)}
    terms = enumerate(prepared.kl_weight)
    found |= {f"kl.{place}": prepared.mask & (weight != 0) for place, weight in terms if weight is not None}
    return found | {"advantage": prepared.mask & (prepared.advantage != 0)}


def _counts(facts: BatchFacts) -> dict[str, Tensor]:
    return {name: torch.tensor([update.sums.get(name, 0.0) for update in facts.updates]) for name in COUNTED}


def _flat(seen: _Seen) -> dict[str, Tensor]:
    tables = {"sets": seen.sets, "counts": seen.counts, "gradients": seen.gradients}
    return {f"{kind}/{name}": value.contiguous() for kind, table in tables.items() for name, value in table.items()}


def _compared(
    method: str, ranks: int, division: Division, seen: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> Case:
    sets = {name: int((seen[name] ^ wanted[name]).sum()) for name in wanted if name.startswith("sets/")}
    sets |= {name: int((seen[name] - wanted[name]).abs().sum()) for name in wanted if name.startswith("counts/")}
    return Case(
        method=method,
        ranks=ranks,
        size=division.size,
        packing=division.packing,
        sets={name.partition("/")[2]: count for name, count in sets.items() if count},
        gradient=max(_gap(seen[name], wanted[name]) for name in wanted if name.startswith("gradients/")),
        weighed=int(wanted["sets/weighed"].sum()),
    )


def _gap(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of any update's gradients [U, W], relative to the norm of the other."""
    if one.shape != other.shape:
        return float("inf")
    norm = other.norm(dim=1)
    return float(((one - other).norm(dim=1) / torch.where(norm > 0, norm, 1.0)).amax())
