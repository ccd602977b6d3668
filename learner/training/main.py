"""Entry of every learner rank. The same program on all of them; rank 0 conducts, the others follow.

Knows neither method nor launcher: `torch.distributed` is initialised, and what the run is comes with the job.
"""

import logging
from pathlib import Path

from isentrope.errors import FencedError, IsentropeError
from isentrope.learner.objective.presets import build, load_objective
from isentrope.learner.training.collectives import Collectives
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.loop import conduct
from isentrope.learner.training.rank_group import RankGroup

logger = logging.getLogger(__name__)


def train(job: LearnerJob) -> None:
    """Take the run from wherever it is to its end; every rank calls this.

    It returns when the run has finished, was stopped, ended with an error that a restart cannot mend (`outcome.json`
    says which), or belongs to a newer learner (nothing is written then). What it raises is worth a restart.
    """
    collectives = Collectives(job.config.collective_timeout_s)
    run_folder = Path(job.spec.run_folder)
    merged = load_objective(job.config.method, job.config.objective, run_folder)
    objective = build(merged, run_folder, max_new_tokens=job.spec.sampling.max_new_tokens)
    rank_group = RankGroup(job, objective, collectives)
    try:
        if collectives.rank:
            rank_group.follow()
        else:
            conduct(job, objective, rank_group)
            rank_group.end()
    except FencedError as error:
        logger.error("%s", error)
        rank_group.end()
    except RuntimeError as error:
        if not isinstance(error, IsentropeError):
            collectives.roll_call(rank_group.doing)
        raise
