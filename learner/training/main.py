"""Entry of every learner rank. All run the same program; rank 0 leads, the others follow.

`torch.distributed` is initialised by the launcher; the job describes the run.
"""

import logging
from pathlib import Path

from isentrope.errors import FencedError, IsentropeError, OutcomeError
from isentrope.learner.objective.objective import Objective
from isentrope.learner.objective.presets import build, load_objective
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.loop import conduct
from isentrope.learner.training.rank_group import RankGroup

logger = logging.getLogger(__name__)


def train(job: LearnerJob) -> None:
    """Continue or start the run and train it to its end; every rank calls this.

    It returns when the run has finished, was stopped, or ended with an error that a restart cannot fix (see
    `outcome.json`). After any error it raises but FencedError and OutcomeError, a restart may help.

    Raises:
        FencedError: on rank 0, if the run belongs to another learner; nothing is written then, since the folder may be
            that one's too, and the other ranks return.
        OutcomeError: on rank 0, if the run has ended and the disk refuses the outcome; the other ranks return.
    """
    collectives, objective, rank_group = open_ranks(job)
    try:
        if collectives.rank:
            rank_group.follow()
        else:
            conduct(job, objective, rank_group)
            rank_group.end()
    except (FencedError, OutcomeError) as error:
        logger.error("%s", error)
        rank_group.end()
        raise
    except RuntimeError as error:
        if not isinstance(error, IsentropeError):
            collectives.roll_call(rank_group.doing)
        raise


def open_ranks(job: LearnerJob) -> tuple[Collectives, Objective, RankGroup]:
    """Join the other ranks; return the way to them, the objective, and the group that carries out orders."""
    collectives = Collectives(job.config.collective_timeout_s)
    run_folder = Path(job.local.run_folder)
    merged = load_objective(job.config.method, job.config.objective, run_folder)
    objective = build(merged, run_folder, max_new_tokens=job.spec.sampling.max_new_tokens)
    return collectives, objective, RankGroup(job, objective, collectives)
