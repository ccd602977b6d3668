"""One rank of the checks that need DeepSpeed: `rank_stages.py MODEL FOLDER RESULTS STAGE...`; rank 0 writes RESULTS."""

import json
import math
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from isentrope import environment

environment.set_defaults(offline=True)

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402
from toy_batch import make_toy_rows, padded  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from isentrope.kernels import plain  # noqa: E402
from isentrope.learner.config import LearnerConfig  # noqa: E402
from isentrope.learner.intake.packing import Packed, pack  # noqa: E402
from isentrope.learner.intake.plan import Plan  # noqa: E402
from isentrope.learner.intake.ragged import RaggedBatch  # noqa: E402
from isentrope.learner.intake.share import Share  # noqa: E402
from isentrope.learner.objective.batch import Batch, LossParts, Prepared  # noqa: E402
from isentrope.learner.objective.objective import ControllerStates, Objective  # noqa: E402
from isentrope.learner.objective.presets import build, load_objective  # noqa: E402
from isentrope.learner.training.collectives import Collectives  # noqa: E402
from isentrope.learner.training.deepspeed_engine import TrainingEngine, UpdateFacts  # noqa: E402
from isentrope.learner.training.model import load_policy  # noqa: E402
from isentrope.learner.training.trainer import Schedule, Trainer  # noqa: E402
from isentrope.learner.training.version_writer import VersionWriter  # noqa: E402
from isentrope.rollout.wire.proof import TENSORS, Canary, parse_tensors  # noqa: E402
from isentrope.rollout.wire.tensor_bits import facts_of  # noqa: E402
from isentrope.rollout.wire.types import version_of  # noqa: E402
from isentrope.rollout.wire.weights import verify, version_folder  # noqa: E402

RAGGED = make_toy_rows(groups=6, group_size=4)
ADVANTAGE = torch.randn(24, generator=torch.Generator().manual_seed(0))
TOKENS = float(RAGGED.mask.sum())
MASK = padded(RAGGED).mask
SHARES = [
    [(0, 1, 2), (3, 4, 5, 6, 7, 8, 9), (10,)],
    [(11, 12, 13, 14, 15, 16, 17, 18, 19), (20, 21, 22, 23), ()],
]
"""Micro-batches of each rank: uneven, and one without responses."""
METHODS = ("grpo", "decoupled", "kl_cov", "tis", "advanced")
"""Without and with the engine's log-probabilities in updates; selections over the batch; corrections; controllers."""
CPU = torch.device("cpu")
Reported: TypeAlias = tuple[Tensor, LossParts]


def parts_of(packed: Packed, factor: float, logp: Tensor, entropy: Tensor) -> LossParts:
    """The part of a loss that some responses make; logp, entropy: [n, T]."""
    mask = MASK[packed.rows]
    weight = ADVANTAGE[packed.rows][:, None] * mask
    loss = -(weight * logp + 0.01 * mask * entropy).sum() / TOKENS * factor
    return LossParts(loss, {"entropy": (entropy.detach() * mask).sum()}, {})


def loss_of(packed: Packed, temperature: float, logits: Tensor, targets: Tensor, factor: float = 1.0) -> Reported:
    logp, entropy = plain.logp_entropy(logits, targets, temperature)
    parts = parts_of(packed, factor, packed.to_padded(logp), packed.to_padded(entropy))
    return parts.loss, parts


def reference(model: str) -> dict[str, Tensor]:
    """The gradient by plain PyTorch, in one process and one micro-batch."""
    policy = load_policy(model, dtype=torch.float32, device=CPU, gradient_checkpointing=False)
    whole = pack(RAGGED, range(24))

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        y = torch.log_softmax(logits / 0.7, 1)
        logp, entropy = y.gather(1, targets[:, None])[:, 0], -(y.exp() * y).sum(1)
        return parts_of(whole, 1.0, whole.to_padded(logp), whole.to_padded(entropy)).loss

    policy(whole, loss).backward()
    return {name: parameter.grad for name, parameter in policy.named_parameters() if parameter.grad is not None}


def make_engine(model: str, stage: int) -> TrainingEngine:
    config = LearnerConfig(zero_stage=stage, learning_rate=1e-3, warmup_updates=4, max_grad_norm=0.5)
    policy = load_policy(model, dtype=torch.float32, device=CPU, gradient_checkpointing=stage == 1)
    return TrainingEngine(policy, 0.7, config, CPU)


def update(engine: TrainingEngine, *, factor: float = 1.0) -> UpdateFacts:
    shares = [pack(RAGGED, rows) for rows in SHARES[dist.get_rank()]]
    return engine.update(shares, partial(loss_of, factor=factor))


def weights(engine: TrainingEngine) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in engine.weights.in_memory()}


def capture_gradient(engine: TrainingEngine, step: Callable[[], UpdateFacts]) -> tuple[dict[str, Tensor], UpdateFacts]:
    """The summed gradient at the moment that `step` applies it, and the update."""
    from deepspeed.utils import safe_get_full_grad

    caught: dict[str, Tensor] = {}
    apply = engine._apply

    def catch() -> tuple[bool, float]:
        for name, parameter in engine.policy.named_parameters():
            gradient: Any = parameter.grad if engine._config.zero_stage == 0 else safe_get_full_grad(parameter)
            caught[name] = gradient.clone()
        return apply()

    engine._apply = catch
    facts = step()
    engine._apply = apply
    return caught, facts


def refused_save(engine: TrainingEngine, folder: Path) -> str:
    """What `save` says on this rank when no file may grow beyond 20 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        return engine.save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def published(engine: TrainingEngine, model: str, folder: Path, collectives: Collectives) -> dict[str, Any]:
    """What is published of the present weights, gathered and from a copy that training meanwhile leaves behind, against
    what `save_pretrained` writes of them."""
    copy = AutoModelForCausalLM.from_pretrained(model, dtype=engine.dtype)
    copy.load_state_dict(weights(engine), strict=False)
    copy.save_pretrained(folder / "saved")  # on rank 0 alone
    collectives.gather(None)
    saved = load_file(folder / "saved" / "model.safetensors")
    gathered = {name: value.clone() for name, value in engine.weights.published()}
    writer = VersionWriter(engine.weights, collectives.background, folder, CPU)
    canary = Canary(tokens=(1, 2), logp=(-1.0,))
    found = []
    for batch in range(2):
        writing = writer.begin(version_of(1, batch), canary)
        if batch:
            update(engine)
        if (manifest := writing.result()) is not None:
            table = parse_tensors((version_folder(folder, manifest.version) / TENSORS).read_bytes())
            files = {name: value for path in verify(manifest) for name, value in load_file(path).items()}
            found.append([table == {name: facts_of(value) for name, value in saved.items()}, is_equal(files, saved)])
            found[-1].append(len(manifest.shards))
    collectives.gather(None)
    return {"gathered": collectives.gather(is_equal(gathered, saved)), "written": found}


def is_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """True for the same names, dtypes, shapes and bits."""
    return {name: facts_of(value) for name, value in one.items()} == {
        name: facts_of(value) for name, value in other.items()
    }


class WithWholeBatch(Trainer):
    """A trainer on a rank that is given the whole batch, as one that trains alone, and keeps to the plan of all."""

    def _share(self, ragged: RaggedBatch | None, plan: Plan | None) -> Share:
        assert ragged is not None and plan is not None
        rank = self._collectives.rank
        updates = tuple(sweep.shares[rank] for sweep in plan.updates)
        return Share(ragged, plan.statistics.shares[rank], updates)

    def _collected(self, own: Tensor, share: Share, plan: Plan | None) -> Tensor:
        return self._collectives.sum(own)

    def _prepared(self, ragged: RaggedBatch, batch: Batch, plan: Plan | None, state: ControllerStates) -> Prepared:
        assert plan is not None
        return self._objective.prepare(batch, [torch.tensor(sweep.rows) for sweep in plan.updates], state)


def trained(
    trainer: Trainer, objective: Objective, *, whole: bool
) -> tuple[list[ControllerStates], list[float | None]]:
    """Train three batches, each given whole where `whole` says so; return the controllers' states, and the changes of
    entropy."""
    schedule = Schedule(seed=1, micro_batch_tokens=60, updates_per_batch=2, epochs=2, progress=0.5, attributes=True)
    states, changes = [objective.start()], []
    for number in range(3):
        ragged = make_toy_rows(groups=6, group_size=4, seed=number, number=number)
        ragged = replace(ragged, answer=np.arange(24) % 3)
        facts = trainer.train(ragged if whole else None, schedule, states[-1])
        states.append(facts.state)
        changes.append(facts.entropy_change)
    return states, changes


def rows(model: str, collectives: Collectives) -> list[bool]:
    """Whether each rank has equal weights and controllers after training with its share and with the whole batch."""
    same = []
    for method in METHODS:
        objective = build(load_objective(method, {}, Path(model)), Path(model), max_new_tokens=8)
        own, whole = make_engine(model, 2), make_engine(model, 2)
        ours = trained(Trainer(collectives, own, objective, None), objective, whole=collectives.rank == 0)
        theirs = trained(WithWholeBatch(collectives, whole, objective, None), objective, whole=True)
        same.append(own.updates == 12 and ours == theirs and is_equal(weights(own), weights(whole)))
    return collectives.gather(all(same))


def check(model: str, folder: Path, stage: int, collectives: Collectives) -> dict[str, Any]:
    """Everything that is to be seen of one ZeRO stage."""
    facts: dict[str, Any] = {}
    wanted = reference(model)
    engine = make_engine(model, stage)
    before = weights(engine)
    got, step = capture_gradient(engine, lambda: update(engine))
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    facts["names"] = sorted(before) == sorted(name.removeprefix("network.") for name in wanted)
    facts["error"] = max(float((got[name] - wanted[name]).abs().max()) for name in wanted) / scale
    facts["norm"] = [float(torch.stack([gradient.norm() for gradient in wanted.values()]).norm()), step.grad_norm]
    update(engine)
    facts |= published(engine, model, folder / f"version-{stage}", collectives)

    before, sound = weights(engine), folder / f"sound-{stage}"
    if collectives.rank == 0:
        sound.mkdir()
    collectives.gather(None)
    engine.save(sound)
    spoilt = update(engine, factor=math.inf if collectives.rank == 1 else 1.0)
    after = weights(engine)
    facts["spoilt"] = collectives.gather(
        {
            "applied": spoilt.applied,
            "unchanged": all(torch.equal(before[name], after[name]) for name in before),
            "differs": engine.difference(sound),
        }
    )

    refused, kept = folder / f"refused-{stage}", folder / f"kept-{stage}"
    if collectives.rank == 0:
        refused.mkdir()
        kept.mkdir()
    collectives.gather(None)
    facts["refused"] = collectives.gather(refused_save(engine, refused))
    facts["saved"] = collectives.gather(engine.save(kept))
    random = torch.rand(3)
    for _ in range(3):
        update(engine)
    again = make_engine(model, stage)
    again.load(kept)
    facts["random"] = collectives.gather(torch.equal(random, torch.rand(3)))
    for _ in range(3):
        update(again)
    straight, resumed = weights(engine), weights(again)
    facts["bitwise"] = collectives.gather(all(torch.equal(straight[name], resumed[name]) for name in straight))
    facts["moved"] = not torch.equal(before["model.norm.weight"], straight["model.norm.weight"])
    facts["updates"] = again.updates
    again.forget_moments()
    left = [
        float(value.abs().sum()) for state in again._engine.basic_optimizer.state.values() for value in state.values()
    ]
    facts["moments"] = collectives.gather({"count": len(left), "sum": sum(left)})
    facts["steps_on"] = update(again).applied
    facts["digest"] = float(sum(value.double().abs().sum() for value in straight.values()))
    return facts


if __name__ == "__main__":
    model, folder, results, *stages = sys.argv[1:]
    dist.init_process_group("gloo", timeout=timedelta(seconds=240))
    collectives = Collectives(240.0)
    facts: dict[str, Any] = {stage: check(model, Path(folder), int(stage), collectives) for stage in stages}
    facts["rows"] = rows(model, collectives)
    experts = str(Path(folder) / "experts")
    facts["experts"] = published(make_engine(experts, 3), experts, Path(folder) / "version-experts", collectives)
    if collectives.rank == 0:
        Path(results).write_text(json.dumps(facts))
    dist.destroy_process_group()
