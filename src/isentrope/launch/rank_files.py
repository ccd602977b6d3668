"""The files of a run on the machines of its ranks, which share the run's folder, and nothing else needs to be there.

What the run file names comes from the run's bundle, unpacked once for all ranks of a machine. The model's weights are
taken where they are; if a machine does not see them, the command puts the model's files into the run's folder first.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

from isentrope.actors.run_files import Places, RunFiles
from isentrope.launch.bundle import leads_out
from isentrope.learner.config import LearnerConfig
from isentrope.learner.training.job import LearnerJob
from isentrope.rollout.depot.folder_depot import FolderDepot
from isentrope.rollout.wire.spec import RunSpec

MODEL = "model"
"""Folder of a depot that holds the model that the run begins with."""

_CONFIG = "config.json"


def put_model(model: Path, output_dir: Path) -> None:
    """Put the files of a model into the run's folder, by links where the file system allows; what lies there already
    is left. StorageError if one cannot be written."""
    depot = FolderDepot(output_dir)
    there = {name: (output_dir / name).stat().st_size for name in depot.names(MODEL)}
    files = [path for path in model.iterdir() if path.is_file() and not path.name.startswith(".")]
    for path in sorted(files, key=lambda path: path.name == _CONFIG):  # without it, the folder is not a model
        if there.get(f"{MODEL}/{path.name}") != path.stat().st_size:
            depot.put(path, f"{MODEL}/{path.name}")


def with_fixed_methods(config: LearnerConfig, run_folder: Path) -> LearnerConfig:
    """Return a configuration in which methods that no bundle holds have absolute paths."""

    def fixed(name: str) -> str:
        return str((run_folder / name).resolve()) if name.endswith(".toml") and leads_out(name) else name

    method = config.method
    fixed_method = fixed(method) if isinstance(method, str) else [fixed(name) for name in method]
    return config.model_copy(update={"method": fixed_method})


@contextlib.contextmanager
def with_files(job: LearnerJob, places: Places | None) -> Iterator[LearnerJob]:
    """Yield the job with paths of this machine; what is fetched stays while the block runs.

    Args:
        job: one rank's.
        places: where files are fetched to; None: this is the machine on which the run was started.

    Raises:
        StorageError: the bundle is not in the run's folder, is damaged, or cannot be unpacked.
        ConfigError: this machine does not see the run's folder.
    """
    if places is None:
        yield job
        return
    files = RunFiles(job.spec, places, job.config.start_timeout_s)
    with files.unpacked(threading.Event()):
        here = files.spec.model_copy(update={"model_dir": _model(job.spec)})
        yield dataclasses.replace(job, here=here)


def _model(spec: RunSpec) -> str:
    """Return where this machine sees the model: at its own place, or in the run's folder."""
    put = Path(spec.output_dir, MODEL)
    lacking = Path(spec.model_dir).is_absolute() and not Path(spec.model_dir).is_dir()
    return str(put) if lacking and (put / _CONFIG).is_file() else spec.model_dir
