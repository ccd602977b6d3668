"""The learner's ranks as workers of Ray Train; all are started again when one dies.

Ray Train is driven by a task of Ray, not by a thread of the command: a thread that sits in Ray while the command leaves
it makes Ray end the whole process, without a word.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isentrope.errors import FencedError, InternalError, IsentropeError, OutcomeError, UnreachableError
from isentrope.launch import logs, placement
from isentrope.launch.placement import NODE_ID, Avoided, Bundle, Deaths
from isentrope.launch.rank_deaths import NODES, RankDeath, RankLogs, nodes_of
from isentrope.launch.rank_files import with_files
from isentrope.launch.ray_ground import live_nodes
from isentrope.launch.restarts import Restarts
from isentrope.launch.surroundings import Surroundings
from isentrope.long_waits import waiting_for

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

    from isentrope.actors.run_files import Places
    from isentrope.learner.training.job import LearnerJob

WISH_S = 5.0
"""Time in which ranks must have room without the nodes that are better left out."""

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
    bundle: Bundle
    """Room of a rank."""
    labels: dict[str, str]
    """Labels of the nodes on which ranks may be."""
    restart_limit: int
    places: "Places | None" = None
    """Places of files for ranks on other machines; None: all ranks are on this one."""


LAST = (FencedError, OutcomeError)
"""Errors of ranks after which none is started again: they have ended the run, or may not go on."""


def rank_main(config: dict[str, Any]) -> None:
    """Run a rank; torch.distributed is initialised."""
    from ray.train import get_context

    plan: LearnerPlan = config["plan"]
    log = plan.log_folder / f"learner-{get_context().get_world_rank()}.log"
    logs.to_file(log)
    os.utime(log)  # the command sees that this rank has come up
    try:
        _train(plan)
    except Exception:
        logger.exception("this rank failed")  # Ray shows it to nobody
        raise


def _train(plan: LearnerPlan) -> None:
    from isentrope.learner.training.main import train  # takes seconds, in which the model may be made

    await_model(plan)
    with with_files(plan.job, plan.places) as job:
        train(job)


def await_model(plan: LearnerPlan) -> None:
    """Wait until the model is made; UnreachableError at the deadline."""
    timeout_s = plan.job.config.start_timeout_s
    deadline = time.monotonic() + timeout_s
    with waiting_for(f"the model {plan.model} to be made"):
        while plan.model is not None and not plan.model.exists():
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"the model {plan.model} was not made within {timeout_s:.0f} s",
                    fix="see model.log; raise learner.start_timeout_s if it only needs more time",
                )
            time.sleep(0.1)


def lead(plan: LearnerPlan, selectors: Sequence[Mapping[str, str]]) -> RankDeath | None:
    """Run the ranks until they have returned, or one has died, which is returned; the body of the task.

    `selectors` say which nodes they may be on, the best first; the last is the one to wait under.

    Raises:
        FencedError: another learner has the run.
        OutcomeError: the run has ended, and its outcome cannot be written.
    """
    logs.to_file(plan.log_folder / "learner.log")
    plan.surroundings.enter(alone=False)
    from ray.train import PreemptionError, WorkerGroupError

    (plan.log_folder / NODES).unlink(missing_ok=True)
    try:
        _trainer(plan, _with_room(plan, selectors)).fit()
    except (WorkerGroupError, PreemptionError) as error:
        failures = getattr(error, "worker_failures", {})
        for last in (each for each in failures.values() if isinstance(each, LAST)):
            raise last from None
        logger.warning("%s", error)
        return RankDeath.of(error, nodes_of(plan.log_folder))
    return None


def _with_room(plan: LearnerPlan, selectors: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """Return the first selector under which all ranks have room now; the last if none has."""
    from ray.util import placement_group, remove_placement_group

    *wishes, last = selectors
    for selector in wishes:
        ranks = plan.job.config.ranks
        trial = placement_group([plan.bundle.resources()] * ranks, bundle_label_selector=[dict(selector)] * ranks)
        has_room = trial.wait(WISH_S)
        remove_placement_group(trial)
        if has_room:
            return selector
    return last


def _trainer(plan: LearnerPlan, selector: Mapping[str, str]) -> "TorchTrainer":
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
            nodes=plan.log_folder / NODES,
        ),
        scaling_config=ScalingConfig(
            num_workers=config.ranks,
            use_gpu=plan.gpu,
            resources_per_worker=plan.bundle.resources(),
            label_selector=dict(selector) or None,  # type: ignore[call-arg]  # Ray annotates its former class
        ),
        run_config=RunConfig(
            name="learner",
            storage_path=str(plan.log_folder / "ray-train"),
            failure_config=FailureConfig(max_failures=0),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Awaited:
    """Ranks that were started again and have not opened the run. since: by the monotonic clock."""

    since: float
    ranks: RankLogs


class Learner:
    """The group of ranks, from its start to its end."""

    def __init__(self, plan: LearnerPlan, deaths: Deaths) -> None:
        """Start the ranks. `deaths` are also those of actors: nodes that had too many are left out, where others have
        room."""
        self._plan = plan
        self._deaths = deaths
        self._restarts = Restarts(Path(plan.job.spec.output_dir), plan.restart_limit)
        self._hosts: dict[str, str] = {}
        self._last: RankDeath | None = None
        self._incarnation = 0
        self._awaited: _Awaited | None = None
        self._future = self._start(self._selectors())

    @property
    def has_ended(self) -> bool:
        """True if all ranks have returned, or are not started again."""
        return self._last is not None or (self._wait(0.0) and self._death() is None)

    @property
    def starts_again(self) -> bool:
        """True if the ranks were started again and have not opened the run."""
        return self._awaited is not None

    def opened(self, incarnation: int) -> None:
        """Record which learner holds the run: ranks that were started again are awaited until it is theirs."""
        if incarnation > self._incarnation:
            self._incarnation, self._awaited = incarnation, None

    def tend(self) -> Iterator[str]:
        """Start all ranks again if one has died, or if they have not opened the run in time after such a death; yield
        one event line each."""
        if self.has_ended:
            return
        death = self._death() if self._wait(0.0) else self._late()
        if death is None:
            return
        where = ", ".join(self._hosts.get(node, node) for node in death.nodes)
        for node in death.nodes:
            if self._deaths.note(node, time.monotonic()):
                yield self._deaths.notice(self._hosts.get(node, node))
        if not self._restarts.may_go_on():
            self._last = death
            return
        count = f"death {self._restarts.count} of {self._plan.restart_limit} without a checkpoint or dead letter"
        what = death.last_line if death.late else f"a rank has died{' on ' + where if where else ''}"
        yield f"{what}, and all start again: {count}"
        ranks = RankLogs.now(self._plan.log_folder, self._plan.job.config.ranks)
        self._future = self._start(self._selectors())
        self._awaited = _Awaited(time.monotonic(), ranks)

    def join(self, timeout_s: float) -> None:
        """Wait for the end."""
        self._wait(timeout_s)

    def stop(self) -> None:
        """End the ranks at once, if they still run."""
        if not self._wait(0.0):
            self._cancel()

    def failure(self) -> IsentropeError | None:
        """Return the error by which a learner that has ended did so; None: its ranks have returned."""
        import ray
        from ray.exceptions import RayError

        if self._last is not None:
            return self._last_error(self._last)
        try:
            ray.get(self._future)
        except RayError as error:
            if isinstance(cause := getattr(error, "cause", None), LAST):
                return cause
            return self.without_outcome(RankDeath(str(error)).last_line)
        return None

    def _last_error(self, death: RankDeath) -> IsentropeError:
        if not death.late:
            return self.without_outcome(death.last_line)
        return UnreachableError(
            f"the learner does not come up again: {death.last_line}",
            where=str(self._plan.log_folder),
            fix="see learner-0.log; raise learner.start_timeout_s if it only needs more time",
        )

    def without_outcome(self, why: str = "its ranks returned without one") -> InternalError:
        """Return the error of a learner that has left no outcome."""
        return InternalError(
            f"the learner ended without an outcome: {why}", where=str(self._plan.log_folder), fix="see learner-0.log"
        )

    def _start(self, selectors: Sequence[Mapping[str, str]]) -> Any:
        import ray

        here = {NODE_ID: ray.get_runtime_context().get_node_id()}
        remote: Any = ray.remote(num_cpus=0, max_retries=0, label_selector=here)(lead)
        return remote.remote(self._plan, selectors)

    def _late(self) -> RankDeath | None:
        """End ranks that were started again and have not opened the run in time, and return that as a death."""
        limit_s = self._plan.job.config.start_timeout_s
        if self._awaited is None or time.monotonic() - self._awaited.since <= limit_s:
            return None
        self._cancel()
        return self._awaited.ranks.late_death(limit_s, self._hosts)

    def _cancel(self) -> None:
        import ray

        ray.cancel(self._future, force=True)
        with waiting_for("the ranks to end"):
            self._wait(STOP_S)

    def _selectors(self) -> list[dict[str, str]]:
        """Return the labels of the nodes on which ranks may be, by what is known now; the best first."""
        nodes, now = live_nodes(), time.monotonic()
        self._hosts |= {node.id: node.host for node in nodes}
        avoided = Avoided(quarantined=self._deaths.quarantined(now), recent=self._deaths.recent(now))
        return placement.selectors(nodes, self._plan.bundle, self._plan.labels, avoided)

    def _death(self) -> RankDeath | None:
        """Return the death by which the ranks have ended; None: they have returned, or failed for good."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            death: RankDeath | None = ray.get(self._future)
        except RayTaskError:
            return None
        except RayError as error:  # the process of the task is gone, and the ranks with it
            return RankDeath(str(error))
        return death

    def _wait(self, timeout_s: float) -> bool:
        import ray

        done, _ = ray.wait([self._future], timeout=timeout_s)
        return bool(done)
