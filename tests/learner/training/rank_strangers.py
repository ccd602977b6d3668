"""One rank that meets an order it does not know: `rank_strangers.py JOB RESULTS`; rank 0 writes RESULTS."""

import json
import sys
from datetime import timedelta
from pathlib import Path

from isentrope import environment

environment.set_defaults(offline=True)

import torch.distributed as dist  # noqa: E402
from toy_run import load  # noqa: E402

from isentrope.errors import InternalError  # noqa: E402
from isentrope.learner.objective.presets import build, load_objective  # noqa: E402
from isentrope.learner.training.collectives import Collectives  # noqa: E402
from isentrope.learner.training.rank_group import RankGroup  # noqa: E402


def meet(ranks: RankGroup, collectives: Collectives) -> str:
    """What this rank raises."""
    try:
        if collectives.rank:
            ranks.follow()
        else:
            ranks.idle()
            collectives.broadcast(b"trian\n{}")  # what a rank 0 of another release might send
            return "sent"
    except InternalError as error:
        return error.what
    return "nothing"


if __name__ == "__main__":
    text, results = sys.argv[1:]
    job = load(Path(text).read_text())
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    collectives = Collectives(60.0)
    folder = Path(job.spec.run_folder)
    objective = build(load_objective(job.config.method, {}, folder), folder, max_new_tokens=8)
    met = collectives.gather(meet(RankGroup(job, objective, collectives), collectives))
    if collectives.rank == 0:
        Path(results).write_text(json.dumps(met))
    dist.destroy_process_group()
