"""One rank of a run, started by torchrun: `rank_train.py JOB.json`."""

import logging
import os
import sys
from datetime import timedelta
from pathlib import Path

from isentrope import environment

environment.set_defaults(offline=True)

import torch.distributed as dist  # noqa: E402
from toy_run import load  # noqa: E402

from isentrope.learner.training.main import train  # noqa: E402

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    job = load(Path(sys.argv[1]).read_text())
    dist.init_process_group("gloo", timeout=timedelta(seconds=job.config.collective_timeout_s))
    logging.info("rank %d is pid %d", dist.get_rank(), os.getpid())
    train(job)
    dist.destroy_process_group()
