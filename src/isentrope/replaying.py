"""The command `replay`: makes a learner's steps again from the groups that a run has kept, on this machine alone.

The ranks are processes of their own, which meet through a file; there is no broker, no Ray, and no actor.
"""

import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from isentrope import runfolder
from isentrope.check.findings import Checked
from isentrope.check.model import open_model
from isentrope.config import load
from isentrope.environment import hide_gpus, set_defaults
from isentrope.errors import ConfigError, InternalError
from isentrope.launch.local_ranks import LocalRanks
from isentrope.launch.plan import make_spec
from isentrope.launch.temporary import own_folder
from isentrope.resolved import RUN_FILE
from isentrope.runfile import raise_all
from isentrope.toml_text import toml_value

if TYPE_CHECKING:
    from isentrope.learner.training.job import LearnerJob
    from isentrope.learner.training.replay import Parting, Route


@dataclass(frozen=True, slots=True)
class Request:
    """Arguments of the command. to: batches of a checkpoint; None: the newest one's. begin: name or batches of the
    checkpoint to start from; empty: the beginning of the run. model: where the run's model is now; empty: where it
    was."""

    run: Path
    to: int | None = None
    begin: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Replayed:
    """Batches that were made again, and the checkpoint whose every bit came out, in its JSON form."""

    run: str
    first: int
    last: int
    checkpoint: str
    ranks: int


def replay(request: Request, as_json: bool, console: Console) -> int:
    """Make a run's steps again, and print the checkpoint that came out of them.

    Raises:
        RunFolderError: there is no run, or its record is damaged.
        ConfigError: there is no such checkpoint, its batches were not kept, or the run's model is not here.
        StorageError: a kept plan or payload, or a checkpoint, is damaged.
        InternalError: a step gave something else than in the run.
    """
    set_defaults()
    from isentrope.learner.training.replay import find_route

    folder = runfolder.find(request.run)
    if runfolder.read_record(folder).only == "rollout":
        raise ConfigError(
            f"nothing was trained in {folder}: the run made and kept groups",
            fix="train them, by `isentrope train RUN.toml --only train --groups` and this folder",
        )
    route = find_route(folder, request.to, request.begin)
    with own_folder("replay") as place:
        parting = _repeated(_job(folder, request, route, place), route)
    if parting is not None:
        raise InternalError(
            f"replay parts from the run in batch {parting.batch}: {parting.what}",
            where=parting.where,
            fix=_advice(folder),
        )
    done = Replayed(str(folder), route.first, route.last, route.goal, route.circumstances.ranks)
    if as_json:
        console.print_json(json.dumps(asdict(done)))
        return 0
    console.print(
        f"{folder}: batches {done.first} to {done.last} were trained again by {done.ranks} "
        f"{'rank' if done.ranks == 1 else 'ranks'}: every measure is the run's, and every bit of {done.checkpoint}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


def _job(folder: Path, request: Request, route: "Route", place: Path) -> "LearnerJob":
    """Return the run's job for the ranks of the route, whose output folder is `place`."""
    from isentrope.learner.training.job import LearnerJob

    if not (folder / RUN_FILE).is_file():
        raise ConfigError(f"{folder} has no {RUN_FILE}, which holds the run's settings", fix="restore it")
    moved = [f"model.path={toml_value(str(Path(request.model).resolve()))}"] if request.model else []
    config, file = load(folder / RUN_FILE, moved)
    if config.cluster.gpus is False:
        hide_gpus()
    model, _, errors = open_model(config, file)
    raise_all(errors)
    around = route.circumstances
    learner = config.learner.model_copy(
        update={"ranks": around.ranks, "gradient_checkpointing": around.gradient_checkpointing}
    )
    checked = Checked(config, file, digest="", data_digest="", model=model, notes=())
    return LearnerJob(make_spec(checked, place), learner, config.weights, url="")


def _repeated(job: "LearnerJob", route: "Route") -> "Parting | None":
    """Start the ranks, and return what rank 0 has found."""
    from isentrope.learner.training.replay import repeat

    with LocalRanks(job.config, functools.partial(repeat, job, route), Path(job.spec.output_dir), None) as ranks:
        ranks.wait(None)
        return ranks.result()


def _advice(folder: Path) -> str:
    """Return what may explain that bits differ: other versions of what computes them."""
    from isentrope.launch.plan import versions

    there, here = runfolder.read_record(folder).versions, versions()
    differing = [
        f"{name} was {there[name]} and is {here[name]}"
        for name in sorted(here)
        if there.get(name, here[name]) != here[name]
    ]
    return (
        f"replay it as it was trained: {', '.join(differing)}"
        if differing
        else "replay it on a machine like that of the run"
    )
