"""One rank that makes a run's steps again: `rank_replay.py JOB.json RUN WORK RESULT [FROM]`; rank 0 writes RESULT."""

import json
import sys
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

from isentrope import environment

environment.set_defaults(offline=True)

import torch.distributed as dist  # noqa: E402
from toy_run import load  # noqa: E402

from isentrope.learner.training.replay import find_route, repeat  # noqa: E402

if __name__ == "__main__":
    job_file, run, work, result, *begin = sys.argv[1:]
    job = load(Path(job_file).read_text())
    job = replace(job, spec=job.spec.model_copy(update={"output_dir": work}))
    dist.init_process_group("gloo", timeout=timedelta(seconds=job.config.collective_timeout_s))
    route = find_route(Path(run), None, *(begin or [""]))
    parting = repeat(job, route)
    if dist.get_rank() == 0:
        found = {"goal": route.goal, "first": route.first, "parting": asdict(parting) if parting else None}
        Path(result).write_text(json.dumps(found))
    dist.destroy_process_group()
