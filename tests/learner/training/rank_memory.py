"""One rank that loads a model and divides it: `rank_memory.py MODEL SMALL RESULTS`. Rank 0 writes what all took.

The small model is loaded first, so that what is measured is not what libraries take when they are first used.
"""

import json
import re
import sys
import threading
from datetime import timedelta
from pathlib import Path

from isentrope import environment

environment.set_defaults(offline=True)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from toy_run import DEADLINE_S  # noqa: E402

from isentrope.learner.config import LearnerConfig  # noqa: E402
from isentrope.learner.training.deepspeed_engine import BUCKET_ELEMENTS, TrainingEngine, _settings, divide  # noqa: E402
from isentrope.learner.training.model import Policy, load_policy  # noqa: E402

CPU = torch.device("cpu")
KINDS = ("Pss_Anon", "Pss_Shmem")
"""Pages that no file holds. Those of mapped files are left out: the machine has them once, and the process that maps
them first is told all of them as its share, so that the sum of all high-water marks counts them several times."""

LOOK_S = 0.002


class HighWater:
    """High-water marks of this process's memory while a block runs, above what it had before, in bytes."""

    def __enter__(self) -> "HighWater":
        self._before = self._now()
        self._most = dict(self._before)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def taken(self) -> dict[str, int]:
        """By kind: pages that no file holds; of those that it shares with others, its share."""
        return {kind: self._most[kind] - self._before[kind] for kind in KINDS}

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            now = self._now()
            self._most = {kind: max(self._most[kind], now[kind]) for kind in KINDS}

    def _now(self) -> dict[str, int]:
        text = Path("/proc/self/smaps_rollup").read_text()
        return {kind: int(found[1]) << 10 for kind in KINDS if (found := re.search(rf"^{kind}: +(\d+)", text, re.M))}


def load(model: str) -> Policy:
    return load_policy(model, dtype=torch.float32, device=CPU, gradient_checkpointing=False)


def is_whole(policy: Policy, model: str) -> bool:
    """Whether the ranks together have the values of the files."""
    import deepspeed

    there = load_file(Path(model) / "model.safetensors")
    with deepspeed.zero.GatheredParameters(list(policy.parameters())):
        return all(torch.equal(value, there[name]) for name, value in policy.network.named_parameters())


def main(model: str, small: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=DEADLINE_S))
    config = LearnerConfig(zero_stage=3)
    TrainingEngine(load(small), 1.0, config, CPU)
    dist.barrier()
    with HighWater() as mark:
        with HighWater() as loading:
            policy = load(model)
        divide(policy, _settings(config, torch.float32, BUCKET_ELEMENTS))
        dist.barrier()
    seen: list[dict[str, object]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(seen, {**mark.taken, "copied": loading.taken["Pss_Anon"], "whole": is_whole(policy, model)})
    if dist.get_rank() == 0:
        Path(results).write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
