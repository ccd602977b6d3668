"""Demands of a run on the machine that starts it: an output folder, GPUs or processor cores."""

import os
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from isentrope.config import Config
from isentrope.environment import gpu_count
from isentrope.errors import ConfigError
from isentrope.runfile import RunFile


def failures(config: Config, file: RunFile) -> Iterator[ConfigError]:
    """Yield an error for everything that would end the run here."""
    folder = config.output_dir(file.path.parent)
    if reason := _unwritable(folder):
        yield ConfigError(
            f"the run's folder {folder} cannot be made: {reason}",
            where=file.where("run.output_dir"),
            fix="set run.output_dir to a folder that this user may write to",
        )
    if config.learner.tensorboard and find_spec("tensorboard") is None:
        yield ConfigError(
            "learner.tensorboard needs the package tensorboard, which is not installed",
            where=file.where("learner.tensorboard"),
            fix="pip install 'isentrope[track]', or leave it out",
        )


def doubts(config: Config) -> Iterator[str]:
    """Yield a note if the run asks for more than this machine has; a cluster may have it."""
    actors, ranks = config.actors, config.learner.ranks
    here = gpu_count()
    if here:
        needed, unit = actors.count * actors.tensor_parallel_size + ranks, "GPUs"
        sum_of = f"{actors.count} actors of {actors.tensor_parallel_size} and {ranks} ranks"
    else:
        here = len(os.sched_getaffinity(0))
        needed, unit = actors.count + ranks, "processor cores"
        sum_of = f"{actors.count} actors and {ranks} ranks, one core for each at least"
    if needed > here:
        yield f"the run wants {needed} {unit} ({sum_of}); here are {here}"


def _unwritable(folder: Path) -> str:
    """Return why nothing can be written in `folder`, which may be still to be made; empty: it can."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir():
        return f"{there} is a file"
    try:
        with tempfile.TemporaryDirectory(prefix="isentrope-", dir=there):
            return ""
    except OSError as error:
        return f"{there}: {error.strerror}"
