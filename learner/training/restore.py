"""Where a learner begins: which checkpoint it continues from, after every byte of it was checked.

Knows checkpoints and the ranks that read them, nothing of the broker.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from isentrope.errors import RunFolderError, StorageError
from isentrope.learner.training.checkpoint_store import State, Store
from isentrope.learner.training.rank_group import Team

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
    """What to begin with; without folder the run is new."""

    state: State
    folder: Path | None


def choose_start(store: Store, team: Team, new: State) -> Start:
    """The best readable checkpoint of the claimed lineage; `new` if there never was one.

    Raises:
        StorageError: there were checkpoints, and none of them can be read.
        RunFolderError: the checkpoint is of another configuration or other data.
    """
    for name in store.lineage():
        try:
            state = _checked(name, store, team)
        except StorageError as error:
            logger.warning("checkpoint %s is skipped: %s (%s)", name, error.what, error.where)
            continue
        _compare(name, state, new)
        logger.info("continuing from checkpoint %s", name)
        return Start(state, store.folder(name))
    if store.claimed.parent:
        raise StorageError(
            f"no checkpoint of learner {store.claimed.incarnation}'s lineage can be read",
            where=str(store.root),
            fix="restore the folder, or begin anew with another run.output_dir",
        )
    return Start(new, None)


def _checked(name: str, store: Store, team: Team) -> State:
    if problem := team.check(store.folder(name), store.files(name)):
        raise StorageError(problem, where=name)
    return store.state(name)


def _compare(name: str, state: State, new: State) -> None:
    for field, what in (("config_digest", "configuration"), ("data_digest", "data set")):
        if getattr(state, field) != getattr(new, field):
            raise RunFolderError(
                f"checkpoint {name} belongs to another {what}",
                where=f"{field}: {getattr(state, field)[:12]} there, {getattr(new, field)[:12]} here",
                fix="go back to it, or choose another run.output_dir",
            )
