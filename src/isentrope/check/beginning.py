"""The other run with whose checkpoint a new run is to begin."""

import tomllib
from pathlib import Path

from isentrope import runfolder
from isentrope.config import Config
from isentrope.errors import ConfigError
from isentrope.learner import json_files
from isentrope.learner.beginning_record import Beginning
from isentrope.resolved import RUN_FILE
from isentrope.runfile import RunFile

KEY = "learner.begin_from"

ALIKE = (("model", "dtype"), ("learner", "zero_stage"))
"""Keys by which a checkpoint is written: both runs have the same."""


def examined(config: Config, file: RunFile) -> str:
    """Return a line on what the run begins with; empty: it has begun, and needs the other run no more.

    Raises:
        ConfigError: the other run trained nothing, has no checkpoint, or its checkpoints are of another form.
        RunFolderError: there is no such run.
    """
    from isentrope.learner.training.checkpoint_store import CHECKPOINTS, CheckpointStore
    from isentrope.learner.training.kept_route import batches_of, chosen, lineage

    own, where = config.output_dir(file.path.parent), file.where(KEY)
    if json_files.read(own, Beginning) is not None:
        return ""
    run = Path(file.folder, Path(config.learner.begin_from).expanduser()).resolve()
    if run == own:
        raise ConfigError(
            f"{run} is the folder of this run itself",
            where=where,
            fix=f"set another run.{'output_dir' if config.run.output_dir else 'name'}; a run goes on by itself",
        )
    if runfolder.read_record(run).only == "rollout":
        raise ConfigError(f"nothing was trained in {run}: that run made and kept groups", where=where)
    _require_alike(config, run, where)
    name = chosen(lineage(CheckpointStore(run / CHECKPOINTS)), "", run)
    return f"the run begins with the weights and the optimizer of {run.name} after {batches_of(name)} batches ({name})"


def _require_alike(config: Config, run: Path, where: str) -> None:
    """Raise ConfigError if the checkpoints of the other run have another form."""
    try:
        there = tomllib.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the settings of {run} cannot be read: {error}", where=where, fix="restore them") from None
    here = config.model_dump(mode="json")
    for table, key in ALIKE:
        if (before := there.get(table, {}).get(key)) != here[table][key]:
            raise ConfigError(
                f"{table}.{key} is {here[table][key]!r}, and {run} was trained with {before!r}",
                where=where,
                fix=f"set it as there, or begin with its weights alone: model.path = {str(run / 'final')!r}",
            )
