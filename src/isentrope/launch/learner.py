"""The learner's ranks as workers of Ray Train, which restarts all when one dies."""

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isentrope.environment import forget_command_folder
from isentrope.errors import InternalError, UnreachableError
from isentrope.launch import logs

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

    from isentrope.learner.training.job import LearnerJob

MAX_FAILURES = 3
"""Number of times that Ray Train starts the ranks again."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LearnerPlan:
    """Settings with which the ranks are started."""

    job: "LearnerJob"
    gpu: bool
    log_folder: Path
    model: Path | None
    """File of the model that ranks wait for; None: it exists, or is remote."""


def rank_main(config: dict[str, Any]) -> None:
    """Run a rank; torch.distributed is initialised."""
    from ray.train import get_context

    plan: LearnerPlan = config["plan"]
    forget_command_folder()
    logs.to_file(plan.log_folder / f"learner-{get_context().get_world_rank()}.log")
    try:
        _train(plan)
    except Exception:
        logger.exception("this rank failed")  # Ray shows it to nobody
        raise


def _train(plan: LearnerPlan) -> None:
    from isentrope.learner.training.main import train  # takes seconds, in which the model may be made

    await_model(plan)
    train(plan.job)


def await_model(plan: LearnerPlan) -> None:
    """Wait until the model is made; UnreachableError at the deadline."""
    timeout_s = plan.job.config.start_timeout_s
    deadline = time.monotonic() + timeout_s
    while plan.model is not None and not plan.model.exists():
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"the model {plan.model} was not made within {timeout_s:.0f} s",
                fix="see model.log; raise learner.start_timeout_s if it only needs more time",
            )
        time.sleep(0.1)


class Learner:
    """The group of ranks, from its start to its end."""

    def __init__(self, plan: LearnerPlan) -> None:
        self._plan = plan
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="learner", daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """True if all ranks have returned, or Ray has stopped restarting them."""
        return not self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait for the end."""
        self._thread.join(timeout_s)

    def failure(self) -> InternalError:
        """Return the error that explains why there is no outcome."""
        lines = [line for line in str(self._error).splitlines() if line and not line[0].isspace()]
        last = "its ranks returned without one" if self._error is None else lines[-1]
        return InternalError(
            f"the learner ended without an outcome: {last}", where=str(self._plan.log_folder), fix="see learner-0.log"
        )

    def _fit(self) -> None:
        try:
            self._trainer().fit()
        except Exception as error:  # any error: `failure` reports it
            self._error = error

    def _trainer(self) -> "TorchTrainer":
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        plan, config = self._plan, self._plan.job.config
        return TorchTrainer(
            rank_main,
            train_loop_config={"plan": plan},
            torch_config=TorchConfig("nccl" if plan.gpu else "gloo", timeout_s=int(config.collective_timeout_s)),
            scaling_config=ScalingConfig(
                num_workers=config.ranks, use_gpu=plan.gpu, resources_per_worker=None if plan.gpu else {"CPU": 0.01}
            ),
            run_config=RunConfig(
                name="learner",
                storage_path=str(plan.log_folder / "ray-train"),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
            ),
        )
