"""Measure what the entropy budget costs: the predicted change in every batch, and the measured one where it is due.

    python docs/results/measure_attribution.py            # a minute on one core

Writes `attribution.json` beside this file. One rank trains the demo's model, untrained, on random batches of the demo's
size; times are of the processor, so that other work on the machine does not show.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from isentrope import environment

environment.set_defaults(offline=True)

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from isentrope.demo.model import write_skeleton  # noqa: E402
from isentrope.learner.config import LearnerConfig  # noqa: E402
from isentrope.learner.intake.ragged import RaggedBatch, make_ragged  # noqa: E402
from isentrope.learner.objective.entropy_budget import entropy_budget  # noqa: E402
from isentrope.learner.objective.presets import build, load_objective  # noqa: E402
from isentrope.learner.training.collectives import Collectives  # noqa: E402
from isentrope.learner.training.deepspeed_engine import TrainingEngine  # noqa: E402
from isentrope.learner.training.model import load_policy  # noqa: E402
from isentrope.learner.training.trainer import BatchFacts, Schedule, Trainer  # noqa: E402
from isentrope.rollout.rewards.correctness import Correctness  # noqa: E402
from isentrope.rollout.wire.types import Finish, Group, Response, version_of  # noqa: E402

HERE = Path(__file__).parent
CPU = torch.device("cpu")
PROMPTS, GROUP, LENGTH, VOCABULARY, UPDATES = 32, 8, 24, 46, 8
REPEATS = 7


def batch(number: int) -> RaggedBatch:
    """A random batch of the demo's size, half of whose responses are right."""
    rng = np.random.default_rng(number)

    def response(index: int) -> Response:
        length = int(rng.integers(LENGTH // 2, LENGTH + 1))
        return Response(
            tokens=rng.integers(3, VOCABULARY, length).astype(np.int32),
            logp_rollout=np.full(length, -np.log(VOCABULARY), np.float32),
            mask=np.ones(length, np.bool_),
            span_start=np.zeros(1, np.int32),
            span_version=np.full(1, version_of(1, number), np.int64),
            finish=Finish.STOP,
            reward=float(index % 2),
            seed=index,
        )

    def group(seq: int) -> Group:
        prompt = rng.integers(3, VOCABULARY, 12).astype(np.int32)
        return Group(seq, 0, "a1", prompt, tuple(map(response, range(GROUP))), 1.0)

    return make_ragged(
        list(map(group, range(PROMPTS))), number=number, token_max_lag=2, correctness=Correctness("reward", 0.5)
    )


def seconds(work: Callable[[], object]) -> float:
    """Processor time of some work."""
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(folder: Path) -> dict[str, float]:
    """Return medians in seconds, and what they are of a batch."""
    write_skeleton(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).save_pretrained(folder)
    policy = load_policy(str(folder), dtype=torch.float32, device=CPU, gradient_checkpointing=False)
    engine = TrainingEngine(policy, 1.0, LearnerConfig(zero_stage=0, learning_rate=2e-4), CPU)
    objective = build(load_objective("grpo", {}, folder), folder, max_new_tokens=LENGTH)
    trainer, state = Trainer(Collectives(60.0), engine, objective, None), objective.start()
    times: dict[str, list[float]] = {"plain": [], "measured": [], "predicted": []}
    for number in range(REPEATS + 1):
        for name, attributes in (("plain", False), ("measured", True)):
            ragged = batch(number)
            schedule = Schedule(0, 4096, UPDATES, 1, 0.5, attributes=attributes)
            found: list[BatchFacts] = []
            times[name].append(seconds(lambda: found.append(trainer.train(ragged, schedule, state))))  # noqa: B023
        facts = found[0]
        times["predicted"].append(seconds(lambda: entropy_budget(facts.batch, facts.prepared)))  # noqa: B023
    plain, measured, predicted = (statistics.median(times[name][1:]) for name in ("plain", "measured", "predicted"))
    return {
        "batch_s": plain,
        "measurement_s": measured - plain,
        "prediction_s": predicted,
        "measurement_share": (measured - plain) / plain,
        "prediction_share": predicted / plain,
        "share_at_every_tenth": (predicted + (measured - plain) / 10) / plain,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{name}/store")
        with environment.with_variables({"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}):
            result = measure(Path(name) / "model")
        dist.destroy_process_group()
    (HERE / "attribution.json").write_text(
        json.dumps({key: float(f"{value:.3g}") for key, value in result.items()}, indent=1) + "\n"
    )
