"""One run from its claimed folder to its end: starts broker, Ray, actors and learner together, and supervises them.

`check` has checked the run file before; `report` describes the run afterwards.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from isentrope.check.broker import require_memory
from isentrope.config import Config
from isentrope.environment import TOKEN_VARIABLE, variable
from isentrope.errors import RunFolderError
from isentrope.launch import logs
from isentrope.launch.actors import ActorPlan, Actors
from isentrope.launch.broker import CommandBroker, Place
from isentrope.launch.bundle import make_bundle
from isentrope.launch.cluster import Resources, cluster, require_broker_for_all, require_gpus
from isentrope.launch.depot import depot_token, offered
from isentrope.launch.guard import Guard
from isentrope.launch.interrupts import Interrupts
from isentrope.launch.learner import Learner, LearnerPlan
from isentrope.launch.machines import require_alike
from isentrope.launch.model import Making
from isentrope.launch.placement import Bundle, Deaths, able
from isentrope.launch.plan import ClaimedRun, make_record, make_spec
from isentrope.launch.rank_files import put_model, with_fixed_methods
from isentrope.launch.ray_ground import RayGround, live_nodes
from isentrope.launch.ray_watch import RayWatch, ask_ray
from isentrope.launch.scaler import Scaler
from isentrope.launch.scaling import OWN_ID
from isentrope.launch.shared_ray import SharedRay
from isentrope.launch.supervisor import StartedRun, Supervisor
from isentrope.launch.surroundings import Surroundings
from isentrope.launch.temporary import delete_left
from isentrope.learner.placement_record import ScaleRow
from isentrope.learner.records import Outcome
from isentrope.learner.training.journal import Journal
from isentrope.long_waits import waiting_for
from isentrope.progress import Progress
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import RunView
from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.bundle import bundle_name
from isentrope.rollout.depot.interface import open_depot
from isentrope.rollout.wire.spec import RunSpec
from isentrope.runfile import COMMAND_LINE

BROKER_DEADLINE_S = 30.0
LOCAL_CPUS = 0.01
"""Processor cores that Ray counts for each process on the command's own machine, which may have fewer cores than
processes."""

VIEW_DEADLINE_S = 5.0
"""Deadline of the supervisor's own reads: it must go on while a broker is away."""


def drive(run: ClaimedRun, progress: Progress, shared: SharedRay | None = None) -> Outcome:
    """Start everything, wait for the end, leave no process running but those of a Ray that is `shared`."""
    config, folder = run.checked.config, run.folder.path
    address = run.ray_address or config.cluster.ray
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        stack.enter_context(logs.kept_apart(folder / "logs" / "command.log"))
        stack.callback(delete_left)
        if shared is None:
            stack.callback(Guard().close)
        resources = _joined(stack, run, address, progress) if address else None
        if resources is None:
            require_gpus(config)
        broker = CommandBroker(config.redis, config.run.name, folder / "redis")
        with waiting_for(f"the broker of run {config.run.name}", progress.note):
            place = stack.enter_context(broker)
            last_actor = _take_over(run, place)
        spec = stack.enter_context(_spec(run, place))
        view = stack.enter_context(_view(run, place, VIEW_DEADLINE_S))
        progress.note(f"broker at {view.broker.place}; {_said_of_ray(address, shared)}")
        resources = resources or (shared.resources if shared else stack.enter_context(cluster("", {})))
        interrupts.renew()  # Ray handles SIGTERM by an abort
        deaths = Deaths(config.cluster.quarantine_after)
        learner = Learner(_learner_plan(run, spec, place, resources), deaths)
        stack.callback(learner.stop)
        ground = RayGround(_bundle(config, resources), _surroundings(config, resources))
        actors = Actors(_actor_plan(run, spec, place, resources), last_actor, ground, deaths)
        started = StartedRun(
            spec=spec,
            config=config,
            view=view,
            actors=actors,
            scaler=Scaler(actors, view, config.actors, Journal(folder, ScaleRow), _number_since(run)),
            learner=learner,
            model=Making(run.model, folder / "logs" / "model.log") if run.model is not None else None,
            ray=stack.enter_context(RayWatch(ask_ray, f"Ray at {address or 'this machine'}")),
            revive_broker=broker.revive,
        )
        return Supervisor(started, interrupts, progress).watch()


def _said_of_ray(address: str, shared: SharedRay | None) -> str:
    return "Ray is joined" if address else "Ray is kept" if shared is not None else "Ray starts"


@contextlib.contextmanager
def _spec(run: ClaimedRun, place: Place) -> Iterator[RunSpec]:
    """Yield the run's facts; while the block runs, what they announce is served. A bundle is for actors on other
    machines, and none can reach a private broker."""
    checked, folder, weights = run.checked, run.folder.path, run.checked.config.weights
    bundle = make_bundle(checked, folder) if not place.socket else None
    token, insecure = depot_token(place.urls[Role.ACTOR], checked.config.run.name), checked.config.redis.insecure
    with offered(folder, weights.serve, token, place, insecure=insecure) as urls:
        copies = [weights.depot] if weights.depot else []
        if bundle is not None:
            for url in copies:
                open_depot(url).put(folder / bundle_name(bundle.digest), bundle_name(bundle.digest))
        yield make_spec(checked, folder, [*copies, *urls], bundle)


def _joined(stack: contextlib.ExitStack, run: ClaimedRun, address: str, progress: Progress) -> Resources:
    """Join a running cluster, before anything is started, and return what it has, unless it is refused."""
    config = run.checked.config
    with waiting_for(f"the Ray at {address}", progress.note):
        resources = stack.enter_context(cluster(address, config.cluster.env))
    require_broker_for_all(resources, config)
    nodes = live_nodes()
    actors = able(nodes, _bundle(config, resources), config.cluster.actor_labels)
    ranks = able(nodes, Bundle(1.0, 0), config.cluster.learner_labels)
    fetching = bool(config.weights.depot or config.weights.serve)  # actors then need the folder on no other machine
    seeing = ranks if fetching else ranks | actors
    wanted = [node for node in nodes if node.id in ranks | actors]
    with waiting_for("an answer of every machine", progress.note):
        found = require_alike(wanted, run.folder.path, seeing, run.checked.model.path)
    for line in found.notes:
        progress.note(line)
    if variable("RAY_AUTH_MODE") != "token":
        progress.note(f"warning: the Ray at {address} wants no token: whoever reaches its ports runs code there")
    if lacking := sorted(node.host for node in nodes if node.id in ranks and node.host in found.without_model):
        progress.note(f"the model's files are put into the run's folder: {', '.join(lacking)} would not see them")
        put_model(Path(run.checked.model.path), run.folder.path)
    return resources


def _bundle(config: Config, resources: Resources) -> Bundle:
    gpus = 0 if resources.cpu_only(config.cluster) else config.actors.tensor_parallel_size
    return Bundle(LOCAL_CPUS if resources.local else 1.0, gpus)


def _take_over(run: ClaimedRun, place: Place) -> int:
    """Delete an earlier command's control state, mark this run as running, and return the newest actor's number.

    Raises:
        RunFolderError: the broker has a run of this name with another folder.
        ConfigError: the broker has too little memory.
    """
    with _view(run, place, BROKER_DEADLINE_S) as view:
        keys = view.broker.keys
        if run.folder.is_new and view.text(keys.meta):
            raise RunFolderError(
                f"the broker at {view.broker.place} has a run {keys.run!r}, but {run.folder.path} is new",
                fix="choose another run.name, or the folder of that run",
            )
        require_memory(view, run.checked.config.redis.max_bytes, run.checked.file.where("redis.max_bytes"))
        view.broker.run(lambda client: client.delete(keys.ctl, keys.request))  # else actors would obey the earlier stop
        info = view.broker.run(lambda client: client.info("server"))
        run.folder.begin(make_record(run, socket=place.socket, redis_version=str(info["redis_version"])))
        numbers = [OWN_ID.fullmatch(actor.id) for actor in view.actors()]
        return max((int(found.group(1)) for found in numbers if found), default=0)


@contextlib.contextmanager
def _view(run: ClaimedRun, place: Place, deadline_s: float) -> Iterator[RunView]:
    config = run.checked.config
    broker = Broker.connect(
        place.urls[Role.COMMAND], config.run.name, deadline_s=deadline_s, insecure=config.redis.insecure
    )
    with contextlib.closing(broker):
        yield RunView(broker)


def _actor_plan(run: ClaimedRun, spec: RunSpec, place: Place, resources: Resources) -> ActorPlan:
    from isentrope.actors.run_files import Places
    from isentrope.actors.worker import ActorOptions

    config = run.checked.config
    here = spec.model_copy(update={"bundle": None})  # this machine has the files
    return ActorPlan(
        options=ActorOptions(
            url=place.urls[Role.ACTOR],
            run=spec.run,
            actor_id="",
            places=Places(access=Access(token=depot_token(place.urls[Role.ACTOR], spec.run))),
            spec=here if resources.local else spec,
            insecure=config.redis.insecure,
        ),
        config=config.actors,
        bundle=_bundle(config, resources),
        labels=config.cluster.actor_labels,
        log_folder=run.folder.path / "logs",
    )


def _number_since(run: ClaimedRun) -> float:
    """Return the time since which the number of actors is what the run file says."""
    file = run.checked.file
    if COMMAND_LINE in file.where("actors.count") or not file.path.is_file():
        return run.started
    return file.path.stat().st_mtime


def _learner_plan(run: ClaimedRun, spec: RunSpec, place: Place, resources: Resources) -> LearnerPlan:
    from isentrope.actors.run_files import Places
    from isentrope.learner.training.job import LearnerJob

    config = run.checked.config
    return LearnerPlan(
        job=LearnerJob(
            spec,
            with_fixed_methods(config.learner, run.checked.file.folder),
            config.weights,
            place.urls[Role.LEARNER],
            config.redis.insecure,
            trains=run.only != "rollout",
        ),
        gpu=not resources.cpu_only(config.cluster),
        log_folder=run.folder.path / "logs",
        model=run.model.file if run.model is not None else None,
        surroundings=_surroundings(config, resources),
        bundle=Bundle(LOCAL_CPUS if resources.local else 1.0, 0 if resources.cpu_only(config.cluster) else 1),
        labels=config.cluster.learner_labels,
        restart_limit=config.cluster.restart_limit,
        places=None if resources.local else Places(),
    )


def _surroundings(config: Config, resources: Resources) -> Surroundings:
    return Surroundings(
        cpu=resources.cpu_only(config.cluster),
        head=resources.head,
        interface=config.cluster.interface,
        secrets=(config.redis.url_env, TOKEN_VARIABLE),
    )
