"""The mode that an operator has chosen since the last checkpoint. Loads no torch.

    <output_dir>/mode.json    the mode, and the number of batches that were trained when it was chosen

A request is answered once, so its answer must outlive the learner and the broker: until a checkpoint of a later batch
holds the mode, this file does.
"""

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from isentrope.learner.training.checkpoint_store import CheckpointState
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.files import write_whole

CHOSEN = "mode.json"
"""File of the mode that was chosen last."""

logger = logging.getLogger(__name__)


class _Choice(BaseModel):
    """A mode, and the number of batches that were trained when it was chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode
    batch: int


def keep_mode(output_dir: Path, mode: Mode, batch: int) -> None:
    """Record a mode that was chosen after `batch` batches; a disk that refuses it costs only that, with a warning."""
    try:
        write_whole(output_dir / CHOSEN, _Choice(mode=mode, batch=batch).model_dump_json(), durable=True)
    except OSError as error:
        logger.warning("mode %s is forgotten if the learner dies before its next checkpoint: %s", mode, error)


def in_chosen_mode(state: CheckpointState, output_dir: Path) -> CheckpointState:
    """Return the state of a checkpoint in the mode that was chosen after it, if one was."""
    try:
        choice = _Choice.model_validate_json((output_dir / CHOSEN).read_bytes())
    except FileNotFoundError:
        return state
    except (OSError, ValidationError) as error:
        logger.warning("%s cannot be read, and the mode is that of the checkpoint: %s", output_dir / CHOSEN, error)
        return state
    return state.model_copy(update={"mode": choice.mode}) if choice.batch >= state.ledger.batches else state
