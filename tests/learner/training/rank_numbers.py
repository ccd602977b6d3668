"""One rank of a run whose number of ranks changes: `rank_numbers.py MODEL FOLDER STEP STAGE...`.

STEP `before`: train, save, and train on. `after`: load the universal form, tell what was loaded, train on, save again.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from isentrope import environment

environment.set_defaults(offline=True)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state  # noqa: E402
from rank_stages import CPU, RAGGED, SHARES, loss_of, weights  # noqa: E402
from toy_run import DEADLINE_S  # noqa: E402

from isentrope.learner.config import LearnerConfig  # noqa: E402
from isentrope.learner.intake.packing import pack  # noqa: E402
from isentrope.learner.training.deepspeed_engine import TrainingEngine  # noqa: E402
from isentrope.learner.training.model import load_policy  # noqa: E402

ROWS = [rows for share in SHARES for rows in share]


def update(engine: TrainingEngine) -> None:
    """One update of all rows; every rank has equally many micro-batches, some of them empty."""
    own = ROWS[dist.get_rank() :: dist.get_world_size()]
    longest = -(-len(ROWS) // dist.get_world_size())
    engine.update([pack(RAGGED, rows) for rows in [*own, *[()] * (longest - len(own))]], loss_of)


def state(engine: TrainingEngine) -> dict[str, torch.Tensor]:
    """Weights, masters and moments, whole."""
    found = weights(engine)
    if engine._config.zero_stage:
        for name, parameter in engine.policy.named_parameters():
            found[f"master {name}"] = _there(safe_get_full_fp32_param(parameter))
            for moment in ("exp_avg", "exp_avg_sq"):
                found[f"{moment} {name}"] = _there(safe_get_full_optimizer_state(parameter, moment))
    return found


def _there(value: torch.Tensor | None) -> torch.Tensor:
    assert value is not None
    return value


def make_engine(model: str, stage: str, *, universal: bool) -> TrainingEngine:
    config = LearnerConfig(zero_stage=int(stage), learning_rate=1e-3, warmup_updates=4, max_grad_norm=0.5)
    policy = load_policy(model, dtype=torch.float32, device=CPU, gradient_checkpointing=False)
    return TrainingEngine(policy, 0.7, config, CPU, loads_universal=universal)


def run(model: str, folder: Path, step: str, stage: str) -> dict[str, Any]:
    """Carry out one step of one stage; return what rank 0 saw."""
    at, size = folder / stage, dist.get_world_size()
    engine = make_engine(model, stage, universal=step == "after")
    if step == "after":
        engine.load(at / "converted" / "saved")
        loaded = state(engine)
        before = torch.load(at / "state.pt")
        differ = [name for name, value in loaded.items() if not torch.equal(value, before[name])]
        update(engine)
        straight = torch.load(at / "straight.pt")
        after = weights(engine)
        gap = max(float((after[name] - straight[name]).abs().max()) for name in after)
        return {"differ": differ, "compared": len(loaded), "gap": gap, "updates": engine.updates, "ranks": size}
    for _ in range(3):
        update(engine)
    if dist.get_rank() == 0:
        (at / "saved").mkdir(parents=True)
    dist.barrier()
    problem = engine.save(at / "saved")
    kept = state(engine)
    update(engine)
    straight = weights(engine)
    if dist.get_rank() == 0:
        torch.save(kept, at / "state.pt")
        torch.save(straight, at / "straight.pt")
    return {"problem": problem}


if __name__ == "__main__":
    model, folder, step, *stages = sys.argv[1:]
    dist.init_process_group("gloo", timeout=timedelta(seconds=DEADLINE_S))
    facts = {stage: run(model, Path(folder), step, stage) for stage in stages}
    if dist.get_rank() == 0:
        (Path(folder) / f"{step}-{dist.get_world_size()}.json").write_text(json.dumps(facts))
    dist.destroy_process_group()
