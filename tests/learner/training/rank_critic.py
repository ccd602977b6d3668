"""One rank of a policy and its critic: `rank_critic.py MODEL FOLDER RESULTS STAGE...`; rank 0 writes RESULTS."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from isentrope import environment

environment.set_defaults(offline=True)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from rank_stages import CPU, RAGGED, SHARES, capture_gradient, is_equal, weights  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from toy_batch import make_toy_rows  # noqa: E402

from isentrope.learner.config import CriticConfig, LearnerConfig  # noqa: E402
from isentrope.learner.intake.packing import Packed, pack  # noqa: E402
from isentrope.learner.objective.batch import LossParts  # noqa: E402
from isentrope.learner.objective.presets import build, load_objective  # noqa: E402
from isentrope.learner.training.checkpoint_store import CRITIC  # noqa: E402
from isentrope.learner.training.collectives import Collectives  # noqa: E402
from isentrope.learner.training.critic import CriticEngine, ValueModel  # noqa: E402
from isentrope.learner.training.deepspeed_engine import TrainingEngine  # noqa: E402
from isentrope.learner.training.model import Policy, load_policy  # noqa: E402
from isentrope.learner.training.trainer import BatchFacts, Schedule, Trainer  # noqa: E402

TARGET = torch.randn(RAGGED.shape, generator=torch.Generator().manual_seed(3))
OBJECTIVE = build(load_objective("ppo", {}, Path()), Path(), max_new_tokens=8)


def lit(weight: Tensor) -> Tensor:
    """Values that are not 0, so that the whole network has a gradient."""
    return nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(4))


def policy(model: str) -> Policy:
    return load_policy(model, dtype=torch.float32, device=CPU, gradient_checkpointing=False)


class Pair:
    """Both engines, and a trainer that has both."""

    def __init__(self, model: str, stage: int, collectives: Collectives) -> None:
        config = LearnerConfig(zero_stage=stage, learning_rate=1e-3, critic=CriticConfig(learning_rate=3e-3))
        self.critic = CriticEngine(policy(model), config, CPU)
        self.policy = TrainingEngine(policy(model), 0.7, config, CPU)
        self.trainer = Trainer(collectives, self.policy, OBJECTIVE, None, self.critic)
        self._first = collectives.rank == 0

    def train(self, number: int) -> BatchFacts:
        """Train one batch, in two epochs."""
        ragged = make_toy_rows(groups=6, group_size=4, seed=number, number=number)
        return self.trainer.train(ragged if self._first else None, Schedule(1, 60, 1, 2, 0.5), {})

    def state(self) -> dict[str, Tensor]:
        """The weights of both."""
        return weights(self.policy) | {f"{CRITIC} {name}": each for name, each in weights(self.critic).items()}


def half_square(packed: Packed, temperature: float, values: Tensor, targets: Tensor) -> tuple[Tensor, LossParts]:
    padded = packed.to_padded(values)
    loss = ((padded - TARGET[packed.rows]).square() * (padded != 0)).sum() / 2
    return loss, LossParts(loss, {"loss_value": loss.detach()}, {})


def gradient_error(model: str, critic: CriticEngine) -> float:
    """The largest difference of the critic's gradient from that of one process and micro-batch, relative."""
    micro_batches = [pack(RAGGED, rows) for rows in SHARES[dist.get_rank()]]
    caught, _ = capture_gradient(critic, lambda: critic.update(micro_batches, half_square))
    plain = ValueModel(policy(model))
    whole = pack(RAGGED, range(24))
    plain(whole, lambda values, targets: half_square(whole, 1.0, values, targets)[0]).backward()
    wanted = {name: each.grad for name, each in plain.named_parameters() if each.grad is not None}
    assert wanted.keys() == caught.keys(), "every parameter has a gradient"
    scale = max(float(each.abs().max()) for each in wanted.values())
    return max(float((caught[name] - wanted[name]).abs().max()) for name in wanted) / scale


def without_critic(model: str, stage: int, collectives: Collectives) -> bool:
    """True if the policy's own updates have the same bits beside a critic."""
    objective = build(load_objective("grpo", {}, Path()), Path(), max_new_tokens=8)
    config = LearnerConfig(zero_stage=stage, learning_rate=1e-3)
    found = []
    for beside in (False, True):
        critic = CriticEngine(policy(model), config, CPU) if beside else None
        engine = TrainingEngine(policy(model), 0.7, config, CPU)
        trainer = Trainer(collectives, engine, objective, None, None)
        for _ in range(2):
            trainer.train(RAGGED if collectives.rank == 0 else None, Schedule(1, 60, 1, 1, 0.5), {})
            if critic is not None:
                critic.update([pack(RAGGED, rows) for rows in SHARES[dist.get_rank()]], half_square)
        found.append(weights(engine))
    return is_equal(*found)


def check(model: str, folder: Path, stage: int, collectives: Collectives) -> dict[str, Any]:
    """Everything that is to be seen of one ZeRO stage."""
    facts: dict[str, Any] = {"alone": collectives.gather(without_critic(model, stage, collectives))}
    zeros, nn.init.zeros_ = nn.init.zeros_, lit
    facts["error"] = gradient_error(model, CriticEngine(policy(model), LearnerConfig(zero_stage=stage), CPU))
    nn.init.zeros_ = zeros
    pair = Pair(model, stage, collectives)
    first = pair.train(0)
    facts["values"] = float(first.batch.supplied["values"].abs().max())
    facts["updates"] = [len(first.updates), len(first.critic)]
    facts["losses"] = [each.sums["loss_value"] for each in first.critic]
    before = pair.state()
    pair.train(1)
    at = folder / f"kept-{stage}"
    if collectives.rank == 0:
        at.mkdir()
    collectives.gather(None)
    facts["saved"] = collectives.gather(pair.policy.save(at) + pair.critic.save(at / CRITIC))
    facts["files"] = sorted(path.name for path in at.iterdir() if path.is_file()) == sorted(
        path.name for path in (at / CRITIC).iterdir()
    )
    straight = [pair.train(number).batch.supplied["values"] for number in (2, 3)]
    again = Pair(model, stage, collectives)
    again.critic.load(at / CRITIC)
    again.policy.load(at)
    resumed = [again.train(number).batch.supplied["values"] for number in (2, 3)]
    facts["bitwise"] = collectives.gather(is_equal(pair.state(), again.state()))
    facts["same_values"] = all(map(torch.equal, straight, resumed)) and bool(straight[0].any())
    facts["moved"] = sorted(
        {name.partition(" ")[0] for name, each in pair.state().items() if not torch.equal(each, before[name])}
    )
    return facts


if __name__ == "__main__":
    model, folder, results, *stages = sys.argv[1:]
    dist.init_process_group("gloo", timeout=timedelta(seconds=240))
    collectives = Collectives(240.0)
    facts: dict[str, Any] = {stage: check(model, Path(folder), int(stage), collectives) for stage in stages}
    if collectives.rank == 0:
        Path(results).write_text(json.dumps(facts))
    dist.destroy_process_group()
