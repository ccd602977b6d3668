"""A small run for tests: its model, its job, and a way to start its ranks as real processes."""

import json
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import rank_launcher
import torch
from rank_launcher import Ranks
from transformers import AutoConfig, AutoModelForCausalLM

from isentrope.demo.model import write_skeleton
from isentrope.learner.config import LearnerConfig
from isentrope.learner.training.job import LearnerJob
from isentrope.rollout.config import DataConfig, ModelConfig, SamplingConfig, WeightsConfig
from isentrope.rollout.wire.spec import RunSpec

HERE = Path(__file__).parent
VOCABULARY = 46
DEADLINE_S = 240.0
"""Of what is not to end by itself, as in `waits`, which ranks cannot import."""


def make_model(folder: Path) -> Path:
    """The demo's model without its warm-up."""
    write_skeleton(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32).save_pretrained(folder)
    return folder


def make_job(run: str, url: str, model: Path, output_dir: Path, *, shows: bool = False, **learner: Any) -> LearnerJob:
    """A job of few, small batches; shows: with the task's demonstrations."""
    config = LearnerConfig(
        **{
            "ranks": 2,
            "prompts_per_batch": 4,
            "updates_per_batch": 2,
            "micro_batch_tokens": 200,
            "learning_rate": 1e-3,
            "batches": 6,
            "checkpoint_every": 2,
            "stall_timeout_s": DEADLINE_S,
            "collective_timeout_s": DEADLINE_S,
            **learner,
        }
    )
    spec = RunSpec(
        run=run,
        config_digest=f"digest-of-{run}",
        seed=1,
        model=ModelConfig(path=str(model), dtype="float32"),
        model_dir=str(model),
        vocab_size=VOCABULARY,
        data=DataConfig(
            train="task:digit_walk", eval_prompts=3, eval_samples=4, demonstration="demonstration" if shows else ""
        ),
        demonstrations=shows,
        data_digest="that of the task",
        sampling=SamplingConfig(group_size=4, max_new_tokens=8),
        actors={},
        prompts_per_batch=config.prompts_per_batch,
        run_folder=str(output_dir),
        output_dir=str(output_dir),
        heartbeat_s=DEADLINE_S,  # the one actor never counts as gone, however late its thread is
    )
    return LearnerJob(spec, config, WeightsConfig(), url)


@dataclass
class Launched:
    """Ranks that run, and the process that ends them together."""

    process: ForkServerProcess
    log: Path

    @property
    def runs(self) -> bool:
        """True until all ranks have ended."""
        return self.process.is_alive()

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Exit code; negative is the signal."""
        try:
            self.process.join(timeout_s)
            assert self.process.exitcode is not None, f"still runs after {timeout_s:.0f} s:\n{self.text()}"
            return self.process.exitcode
        finally:
            self.kill()

    def kill(self) -> None:
        """End the launcher, which ends its ranks."""
        self.process.terminate()
        self.process.join(DEADLINE_S)

    def text(self) -> str:
        """What the ranks logged."""
        return self.log.read_text(errors="replace")


def launch(script: str, arguments: list[str], log: Path, *, ranks: int = 2, **environment: str) -> Launched:
    """Start `script` of this folder on `ranks` local ranks."""
    log.touch()
    started = rank_launcher.start(Ranks(str(HERE / script), tuple(arguments), str(log), ranks, environment))
    return Launched(started, log)


def launch_job(job: LearnerJob, log: Path, **environment: str) -> Launched:
    """Start the ranks of `job`."""
    path = log.with_suffix(".json")
    path.write_text(dump(job))
    return launch("rank_train.py", [str(path)], log, ranks=job.config.ranks, **environment)


def dump(job: LearnerJob) -> str:
    """`job` as JSON."""
    parts = {name: getattr(job, name).model_dump(mode="json") for name in ("spec", "config", "weights")}
    return json.dumps(parts | {"url": job.url, "trains": job.trains})


def load(text: str) -> LearnerJob:
    """What `dump` wrote."""
    table = json.loads(text)
    return LearnerJob(
        RunSpec.model_validate(table["spec"]),
        LearnerConfig.model_validate(table["config"]),
        WeightsConfig.model_validate(table["weights"]),
        table["url"],
        trains=table["trains"],
    )


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal."""
    return [json.loads(line) for line in path.read_text().splitlines()]
