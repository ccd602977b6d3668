"""Another run's checkpoint, with which a new run begins: weights, optimizer and critic go on, everything else is new.

begun_from.json        which checkpoint that was: until the run has one of its own, another start takes the same
begun/<checkpoint>     link to it, beside which it is converted for another number of ranks; nothing is written there
"""

from pathlib import Path
from typing import Any

import torch

from isentrope.errors import ConfigError, StorageError
from isentrope.learner import json_files
from isentrope.learner.beginning_record import Beginning
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, MANIFEST, CheckpointState, CheckpointStore
from isentrope.learner.training.checkpointer import Start, Verifier
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.kept_route import chosen, lineage
from isentrope.rollout.wire.digests import digest_file

BEGUN = "begun"
"""Folder of the link."""

KEY = "learner.begin_from"


def start_from_another(job: LearnerJob, ranks: Verifier, new: CheckpointState) -> Start:
    """Return the start of a run in which nothing was trained, with the tensors of the run that `learner.begin_from`
    names, and note which checkpoint they are of.

    Raises:
        ConfigError: that run has no checkpoint.
        StorageError: none of its checkpoints can be read, or the one that an earlier start has taken is gone.
    """
    output_dir = Path(job.spec.output_dir)
    run = Path(job.local.run_folder, Path(job.config.begin_from).expanduser())
    noted = json_files.read(output_dir, Beginning)
    found = _noted(noted, ranks) if noted is not None else _newest(run.resolve(), ranks)
    json_files.write(output_dir, found)
    return Start(new, _link(found, output_dir), begins=True)


def linked(run: Path, output_dir: Path) -> Path | None:
    """Link the checkpoint with which a run began into another folder, for its steps to be made again there; None: the
    run began with the model itself. StorageError if the checkpoint is gone or was changed."""
    if (noted := json_files.read(run, Beginning)) is None:
        return None
    _unchanged(noted)
    return _link(noted, output_dir)


def require_same_shapes(parameters: torch.nn.Module, checkpoint: Path) -> None:
    """Raise ConfigError if a checkpoint's parameters have other names or shapes than these."""
    there = shapes_in(checkpoint)
    here = {
        name: tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in parameters.named_parameters()
    }  # ds_shape: of a parameter that is divided over ranks
    differing = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if differing:
        name = differing[0]
        raise ConfigError(
            f"{len(differing)} parameters of the run that {KEY} names are not those of this one, the first of them "
            f"{name}: {_shown(there.get(name))} there, {_shown(here.get(name))} here",
            where=KEY,
            fix="give this run a model of the same architecture",
        )


def shapes_in(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of a checkpoint, by its name; no values are read."""
    first = min(checkpoint.glob("*model_states.pt"))
    state: dict[str, Any] = torch.load(first, map_location="meta", weights_only=True, mmap=True)
    groups = state.get("param_shapes") or [{name: each.shape for name, each in state["module"].items()}]
    return {name: tuple(shape) for group in groups for name, shape in group.items()}


def _link(noted: Beginning, output_dir: Path) -> Path:
    """Link a checkpoint into a folder, in place of an earlier link, and return the link."""
    link = output_dir / BEGUN / noted.checkpoint
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(_folder(noted))
    return link


def _newest(run: Path, ranks: Verifier) -> Beginning:
    store = CheckpointStore(run / CHECKPOINTS)
    names, problem = lineage(store), ""
    chosen(names, "", run)
    for name in names:
        try:
            problem = ranks.check(store.folder(name), store.files(name))
        except StorageError as error:
            problem = error.what
        if not problem:
            return Beginning(run=str(run), checkpoint=name, digest=digest_file(store.folder(name) / MANIFEST))
    raise StorageError(f"no checkpoint of {run} can be read: {problem}", where=str(store.root), fix="restore one")


def _noted(noted: Beginning, ranks: Verifier) -> Beginning:
    folder = _unchanged(noted)
    if problem := ranks.check(folder, CheckpointStore(folder.parent).files(folder.name)):
        raise _gone(noted, f"is damaged: {problem}")
    return noted


def _unchanged(noted: Beginning) -> Path:
    """Return the folder of a noted checkpoint."""
    folder = _folder(noted)
    if not (folder / MANIFEST).is_file():
        raise _gone(noted, "is not there any more")
    if digest_file(folder / MANIFEST) != noted.digest:
        raise _gone(noted, "is not what it was")
    return folder


def _gone(noted: Beginning, what: str) -> StorageError:
    return StorageError(
        f"the run began with {noted.checkpoint} of {noted.run}, which {what}",
        where=str(_folder(noted)),
        fix="restore it, or begin anew with another run.output_dir and run.name",
    )


def _folder(noted: Beginning) -> Path:
    return Path(noted.run) / CHECKPOINTS / noted.checkpoint


def _shown(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else " x ".join(map(str, shape))
