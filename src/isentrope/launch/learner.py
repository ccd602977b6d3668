"""The learner's ranks as workers of Ray Train, in a process of their own kind that starts all again when one dies.

Ray Train is driven by a task of Ray, not by a thread of the command: a thread that sits in Ray while the command leaves
it makes Ray end the whole process, without a word.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isentrope.errors import FencedError, InternalError, IsentropeError, UnreachableError
from isentrope.launch import logs
from isentrope.launch.restarts import Restarts
from isentrope.launch.surroundings import Surroundings

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

    from isentrope.learner.training.job import LearnerJob

STOP_S = 10.0
"""Longest wait for the end of a learner that is stopped."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LearnerPlan:
    """Settings with which the ranks are started."""

    job: "LearnerJob"
    gpu: bool
    log_folder: Path
    model: Path | None
    """File of the model that ranks wait for; None: it exists, or is remote."""
    surroundings: Surroundings
    cpus: float
    """Processor cores of a rank, as Ray counts them."""
    labels: dict[str, str]
    """Labels of the nodes on which ranks may be."""
    restart_limit: int


def rank_main(config: dict[str, Any]) -> None:
    """Run a rank; torch.distributed is initialised."""
    from ray.train import get_context

    plan: LearnerPlan = config["plan"]
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


def lead(plan: LearnerPlan) -> None:
    """Run the ranks until they have returned, or died once too often; the body of the task.

    Raises:
        FencedError: another learner has the run.
    """
    logs.to_file(plan.log_folder / "learner.log")
    plan.surroundings.enter(alone=False)
    from ray.train import PreemptionError, WorkerGroupError

    restarts = Restarts(Path(plan.job.spec.output_dir), plan.restart_limit)
    while True:
        try:
            _trainer(plan).fit()
            return
        except (WorkerGroupError, PreemptionError) as error:
            failures = getattr(error, "worker_failures", {})
            for fenced in (each for each in failures.values() if isinstance(each, FencedError)):
                raise fenced from None
            if not restarts.may_go_on():
                raise
            logger.warning("death %d of %d without a checkpoint: %s", restarts.count, plan.restart_limit, error)


def _trainer(plan: LearnerPlan) -> "TorchTrainer":
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from isentrope.launch.rank_backend import RankConfig

    config = plan.job.config
    return TorchTrainer(
        rank_main,
        train_loop_config={"plan": plan},
        torch_config=RankConfig(
            backend="nccl" if plan.gpu else "gloo",
            timeout_s=int(config.collective_timeout_s),
            surroundings=plan.surroundings,
        ),
        scaling_config=ScalingConfig(
            num_workers=config.ranks,
            use_gpu=plan.gpu,
            resources_per_worker={"CPU": plan.cpus} | ({"GPU": 1} if plan.gpu else {}),
            label_selector=plan.labels or None,  # type: ignore[call-arg]  # Ray annotates its former class
        ),
        run_config=RunConfig(
            name="learner",
            storage_path=str(plan.log_folder / "ray-train"),
            failure_config=FailureConfig(max_failures=0),
        ),
    )


class Learner:
    """The group of ranks, from its start to its end."""

    def __init__(self, plan: LearnerPlan) -> None:
        import ray

        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        remote: Any = ray.remote(num_cpus=0, max_retries=0, label_selector=here)(lead)
        self._plan = plan
        self._future = remote.remote(plan)

    @property
    def has_ended(self) -> bool:
        """True if all ranks have returned, or are not started again."""
        return self._wait(0.0)

    def join(self, timeout_s: float) -> None:
        """Wait for the end."""
        self._wait(timeout_s)

    def stop(self) -> None:
        """End the ranks at once, if they still run."""
        import ray

        if not self.has_ended:
            ray.cancel(self._future, force=True)
            self._wait(STOP_S)

    def failure(self) -> IsentropeError | None:
        """Return the error by which a learner that has ended did so; None: its ranks have returned."""
        import ray
        from ray.exceptions import RayError

        try:
            ray.get(self._future)
        except RayError as error:
            if isinstance(cause := getattr(error, "cause", None), FencedError):
                return cause
            last = [line for line in str(error).splitlines() if line and not line[0].isspace()][-1]
            return self.without_outcome(last)
        return None

    def without_outcome(self, why: str = "its ranks returned without one") -> InternalError:
        """Return the error of a learner that has left no outcome."""
        return InternalError(
            f"the learner ended without an outcome: {why}", where=str(self._plan.log_folder), fix="see learner-0.log"
        )

    def _wait(self, timeout_s: float) -> bool:
        import ray

        done, _ = ray.wait([self._future], timeout=timeout_s)
        return bool(done)
