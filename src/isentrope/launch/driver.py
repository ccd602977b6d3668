"""One run from its claimed folder to its end: starts broker, Ray, actors and learner together, and has them watched.

Whatever the run file points to was checked before (`check`); what is told about the run comes after (`report`).
"""

import contextlib
import functools
import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from isentrope.config import Config
from isentrope.errors import RunFolderError
from isentrope.launch import logs
from isentrope.launch.actors import ActorPlan, Actors
from isentrope.launch.broker import CommandBroker, Place
from isentrope.launch.cluster import Resources, cluster, require_gpus
from isentrope.launch.guard import Guard
from isentrope.launch.interrupts import Interrupts
from isentrope.launch.learner import Learner, LearnerPlan
from isentrope.launch.supervisor import Parts, Supervisor
from isentrope.progress import Progress
from isentrope.rollout.broker import Broker
from isentrope.rollout.spec import RunSpec
from isentrope.rollout.view import RunView
from isentrope.runfolder import Outcome, Record, RunFolder

BROKER_DEADLINE_S = 30.0
VIEW_DEADLINE_S = 5.0
"""Of the supervisor's own reads: it must go on looking while a broker is away."""

LEAVE_EXTRA_S = 5.0
"""What an actor may take to leave beyond the time it has to finish its work."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be run; all of it was checked."""

    config: Config
    spec: RunSpec
    folder: RunFolder
    record: Record
    """Of this command, but for the broker's socket."""
    ray_address: str = ""
    """Of a running cluster; empty: a local Ray."""
    make_model: Callable[[], None] | None = None
    """Adds the weights to `spec.model_dir`, in a process of its own, while everything starts; None: they are there."""
    model_file: Path | None = None
    """What `make_model` makes."""


def run(plan: Run, progress: Progress) -> Outcome:
    """Start everything, wait for the end, leave no process behind."""
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        stack.enter_context(logs.kept_apart(plan.folder.path / "logs" / "command.log"))
        guard = Guard()
        stack.callback(guard.close)
        broker = CommandBroker(plan.config.redis, plan.folder.path / "redis")
        place = stack.enter_context(broker)
        progress.note(f"broker: {place.socket or plan.config.redis.url_env}; Ray starts")
        last_actor = _take_over(plan, place)
        plan.folder.begin(plan.record.model_copy(update={"socket": place.socket}))
        model = stack.enter_context(_making(plan))
        resources = stack.enter_context(cluster(plan.ray_address))
        learner_config, actors_config = plan.config.learner, plan.config.actors
        require_gpus(
            resources,
            actors=actors_config.count,
            tensor_parallel_size=actors_config.tensor_parallel_size,
            ranks=learner_config.ranks,
        )
        actors = Actors(_actor_plan(plan, place, resources), last_actor)
        parts = Parts(
            spec=plan.spec,
            batches=learner_config.batches,
            view=_view(plan, place, VIEW_DEADLINE_S),
            actors=actors,
            learner=Learner(_learner_plan(plan, place, resources)),
            model=model,
            revive_broker=broker.revive,
            start_timeout_s=actors_config.start_timeout_s,
        )
        outcome = Supervisor(parts, interrupts, progress).watch()
        actors.leave(actors_config.drain_s + LEAVE_EXTRA_S if outcome.batches else 0.0)
        return outcome


def _take_over(plan: Run, place: Place) -> int:
    """Clear what an earlier command of this run told its actors; the number of the newest actor it had.

    RunFolderError if the broker knows a run of this name whose folder this is not.
    """
    view = _view(plan, place, BROKER_DEADLINE_S)
    keys = view.broker.keys
    if plan.folder.is_new and view.text(keys.meta):
        raise RunFolderError(
            f"run {plan.spec.run!r} is known to the broker at {view.broker.place}, but {plan.folder.path} is new",
            fix="choose another run.name, or the folder of that run",
        )
    view.broker.run(lambda client: client.delete(keys.ctl, keys.request))  # else new actors would obey its last stop
    numbers = [int(found.group(1)) for actor in view.actors() if (found := re.fullmatch(r"a(\d+)", actor.id))]
    view.broker.close()
    return max(numbers, default=0)


def _view(plan: Run, place: Place, deadline_s: float) -> RunView:
    insecure = plan.config.redis.insecure
    return RunView(Broker.connect(place.url, plan.spec.run, deadline_s=deadline_s, insecure=insecure))


@contextlib.contextmanager
def _making(plan: Run) -> Iterator[Future[None] | None]:
    """The model in the making."""
    if plan.make_model is None:
        yield None
        return
    log = functools.partial(logs.to_file, plan.folder.path / "logs" / "model.log")
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), log)
    yield pool.submit(plan.make_model)
    pool.shutdown(wait=False, cancel_futures=True)  # the guard ends what is still at work


def _actor_plan(plan: Run, place: Place, resources: Resources) -> ActorPlan:
    from isentrope.actors.worker import ActorOptions

    config = plan.config.actors
    return ActorPlan(
        options=ActorOptions(
            url=place.url, run=plan.spec.run, actor_id="", spec=plan.spec, insecure=plan.config.redis.insecure
        ),
        count=config.count,
        gpus=0 if resources.cpu_only else config.tensor_parallel_size,
        log_folder=plan.folder.path / "logs",
        start_timeout_s=config.start_timeout_s,
    )


def _learner_plan(plan: Run, place: Place, resources: Resources) -> LearnerPlan:
    from isentrope.learner.training.job import LearnerJob

    config = plan.config
    return LearnerPlan(
        job=LearnerJob(plan.spec, config.learner, config.weights, place.url, config.redis.insecure),
        ranks=config.learner.ranks,
        gpu=not resources.cpu_only,
        collective_timeout_s=config.learner.collective_timeout_s,
        log_folder=plan.folder.path / "logs",
        model=plan.model_file,
        start_timeout_s=config.actors.start_timeout_s,
    )
